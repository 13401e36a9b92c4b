"""Tasks prepared offline: written once in parallel by Apache Beam, read at random while training.

    DIR/TASK/manifest.json                    what was cached, and of each shard its examples, tokens, bytes and checksum
    DIR/TASK/SPLIT-00003-of-00016.array_record

`manifest` knows the files, `steps` which of a task's steps are cached, `encoding` an example as bytes, `writing` and
`reading` do what they say. Beam is imported by `parallel` alone, which hands shards to processes, and by its `worker`s.
"""
