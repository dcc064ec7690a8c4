"""Experiments: one readable typed function each. `temper run NAME` finds them by walking this folder."""
