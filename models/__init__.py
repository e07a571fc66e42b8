"""Networks and algorithms: packs and inference, alignment, fusion (CAFace), matching (IDA).

Rooms: this one imports nothing of the others. Modules that need torch are imported lazily.
"""
