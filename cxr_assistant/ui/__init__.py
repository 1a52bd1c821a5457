"""The reading room: what a person sees and touches. Knows the assistant and the foundation's values.

Must not know torch, pydicom or transformers. Gradio reads its switches when it is imported, so they are
set here, before any module of this room can import it: nothing is reported, nothing is recorded.
"""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"
# Gradio notes every event with its session, and after each sums up the last 10,000 for a page that nobody may
# open here: 6 ms that others wait for.
os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"
os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(2**62)
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
