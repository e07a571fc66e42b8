"""Prints what is sent while it is connected: the protocol itself, with pyzmq alone.

facestream run … --set publish.format=json
python examples/subscribe_plain.py [ENDPOINT]
"""

import json
import sys

import zmq

endpoint = sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5555"
socket = zmq.Context().socket(zmq.SUB)
socket.connect(endpoint)
socket.subscribe("facestream/v1/")
while True:
    _, payload = socket.recv_multipart()
    event = json.loads(payload)
    if event["kind"] != "heartbeat":
        who = event.get("identity") or "-"
        print(event["sequence"], event["kind"], event["camera"], who, flush=True)
