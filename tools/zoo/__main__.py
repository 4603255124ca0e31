"""`python -m kronnx.tools.zoo`: builds the models and the data, and scores them."""

import sys

from .catalogue import main

if __name__ == "__main__":
    sys.exit(main())
