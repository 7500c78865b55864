"""python -m ml_train.launch"""

from ml_train.launch.command import main

raise SystemExit(main())
