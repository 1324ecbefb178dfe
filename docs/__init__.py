"""The pictures' program lives beside the pages that show them."""
