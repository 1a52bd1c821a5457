"""The reading room: what a person sees and touches. Knows the assistant and the foundation's values.

Must not know torch, pydicom or transformers. Gradio reads its switches when it is imported, so they are
set here, before any module of this room can import it: nothing is reported, nothing is recorded.
"""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
