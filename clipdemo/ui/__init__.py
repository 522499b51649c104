"""The page: everything that knows streamlit lives here and in ``streamlit_app.py``."""
