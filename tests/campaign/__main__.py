"""``python -m campaign``."""

import sys

from campaign.runner import main

sys.exit(main())
