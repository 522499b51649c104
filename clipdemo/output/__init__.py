"""Results become what people look at and take away. No streamlit here."""
