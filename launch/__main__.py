"""`python -m t2t.launch`."""

from t2t.launch.main import main

main()
