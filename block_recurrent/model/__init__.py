"""The Block-Recurrent Transformer, as the paper describes it, and nothing else.

Read `gates`, `recurrent_cell`, `attention`, `layers` and `transformer`, in this order.
May import `ops`, `errors`, `fields` and `types`.
"""
