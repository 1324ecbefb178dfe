"""One charging session as two machines, Robot and Station: ``step(state, input) -> (state, effects)``. Pure.

May import payment and values. Time, random ids and chain facts arrive as fields of inputs.
"""
