"""The application of a guide, as it is printed: the page is in GUIDE, and the number of its example in EXAMPLE."""

import os

from tests.docs.pages import story_of, tell

app = tell(story_of(os.environ["GUIDE"], int(os.environ["EXAMPLE"])))["app"]
