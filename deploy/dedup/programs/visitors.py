# Visitors of the site: PORT, how many, and a seed that says who they are. Waits for the site.
import http.client
import random
import sys
import time

port, visits, seed = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
names = random.Random(seed)


def visit(path):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200 or len(body) < 100:
        raise SystemExit("the site answered %d: %r" % (response.status, body[:400]))
    connection.close()


def name():
    return "".join(names.choice("bcdfghklmnprstvw") + names.choice("aeiou") for _ in range(names.randrange(2, 6)))


for attempt in range(3000):
    try:
        http.client.HTTPConnection("127.0.0.1", port).connect()
        break
    except OSError:
        time.sleep(0.1)
for _ in range(visits):
    visit("/visit/%s/%s" % (name(), name()))
