"""Instructions to translate: English and German paragraphs of LibreOffice's help, a pair in each line, in the folder help."""

from t2t import tasks
from t2t.tasks import sources

files = {split: f"help/en_de_help.{split}.tsv.gz" for split in ("train", "validation", "test")}
source = sources.tsv(files, columns=["en", "de"])
tasks.add("translate_help", source=source, inputs="Translate to German: {en}\n", targets="de")
