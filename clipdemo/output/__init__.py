"""Turns results into charts, pictures, reports and files; must not import streamlit."""
