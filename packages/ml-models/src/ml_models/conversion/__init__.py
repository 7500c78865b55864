"""The converter: weights from any format into any other, streamed, with an audit.

| file | what it does |
|---|---|
| open.py | opens a folder of weights in any format, with the configuration of its model |
| plan.py | makes the sink for the format that is asked for |
| convert.py | reads blocks, writes files, publishes the folder |
| journal.py | notes finished files, so that another process can go on |
| report.py | accounts for every tensor |
"""
