"""clipdemo."""
