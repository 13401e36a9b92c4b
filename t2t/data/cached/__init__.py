"""Tasks cached offline: written once, in parallel with Apache Beam, and read in random order during training.

    DIR/TASK/manifest.json                    what was cached, and the examples, tokens, bytes and checksum of each shard
    DIR/TASK/SPLIT-00003-of-00016.array_record

Modules:
- `manifest`: the files of a cache.
- `steps`: which preprocessors of a task are cached.
- `encoding`: examples as bytes.
- `writing` and `reading`: write and read caches.
- `parallel` and its `worker`: distribute shards to processes. Only these two import Beam.
"""
