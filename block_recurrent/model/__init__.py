"""The Block-Recurrent Transformer of the paper.

Read `gates`, `recurrent_cell`, `attention`, `layers` and `transformer`, in this order.
May import `ops`, `errors`, `fields` and `types`.
"""
