import sys

from sciguide.cli import main

sys.exit(main())
