"""The web around Gradio: who may reach what, within which bounds, and what is left behind (nothing).

Knows HTTP, Gradio's routes and how Gradio keeps a visitor's state; knows nothing of models or of what is on a
film. A newcomer reads allowlist.py, then guard.py, then site.py.
"""

from cxr_assistant.ui.web.desk import Desk
from cxr_assistant.ui.web.films import example_routes, film_routes, film_url
from cxr_assistant.ui.web.site import launch
from cxr_assistant.ui.web.uploads import make_upload_dir

__all__ = ["Desk", "example_routes", "film_routes", "film_url", "launch", "make_upload_dir"]
