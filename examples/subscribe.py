"""Prints every event once, whatever is restarted meanwhile: the Python client in a few lines.

    python examples/subscribe.py [ENDPOINT] [CURSOR FILE]

Needs pyzmq and msgspec. How far it came is kept in the cursor file: started again, it goes on from
there. On the first start it begins with the oldest event that the publisher's journal holds.
"""

import sys

from facestream.stream.client import subscribe
from facestream.stream.client_errors import EventsLost

endpoint = sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5555"
cursor = sys.argv[2] if len(sys.argv) > 2 else "subscribe.cursor"

# kinds=["match"], cameras=["entrance"] would ask for some of them only.
with subscribe(endpoint, after="oldest", cursor=cursor) as events:
    while True:
        try:
            event = next(events)
        except EventsLost as lost:
            print(lost, file=sys.stderr)  # the journal no longer holds them; go on behind
            continue
        except KeyboardInterrupt:
            break
        who = getattr(event, "identity", None) or "-"
        print(event.sequence, event.kind, event.camera, who, flush=True)
