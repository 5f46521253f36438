# A service's heap as it grows: JSON records, an index over them, parsed
# expressions, and holes where records were deleted. It ends at a size that the
# sampler never asks for.
import ast
import json
import random

random.seed(7)
WORDS = ("account amount archive balance billing cancelled channel city confirmed contact country created "
         "currency customer delivered delivery discount email express failed gift handling invoice item "
         "limit location manager member merchant mobile notes number open order paid partner payment pending "
         "phone postal price product quantity reason refund region retry return shipped shipping size state "
         "status street supplier tax title total tracking update urgent user value voucher warehouse weight").split()


def record(number):
    return {
        "id": number,
        "reference": "%08x-%04x-%04x" % (random.getrandbits(32), number & 0xFFFF, random.getrandbits(16)),
        "status": random.choice(("open", "paid", "shipped", "returned")),
        "customer": {
            "name": " ".join(random.sample(WORDS, 2)).title(),
            "email": "%s.%s@example.com" % (random.choice(WORDS), random.choice(WORDS)),
            "address": {"street": "%d %s street" % (random.randrange(999), random.choice(WORDS)),
                        "postal": "%05d" % random.randrange(100000), "country": random.choice(("DE", "FR", "US", "JP"))},
        },
        "lines": [{"item": random.choice(WORDS), "quantity": random.randrange(1, 9),
                   "price": random.randrange(100, 99999) / 100.0} for _ in range(random.randrange(1, 6))],
        "notes": " ".join(random.choices(WORDS, k=random.randrange(4, 30))),
        "created": 1700000000 + number * 37,
    }


records, index, raw, trees = {}, {}, [], []
for number in range(3_000_000):
    text = json.dumps(record(number))
    records[number] = json.loads(text)
    index.setdefault(records[number]["customer"]["name"], set()).add(number)
    if number % 5 == 0:
        raw.append(text.encode())
    if number % 40 == 0:
        trees.append(ast.parse("def f%d(a, b=%d):\n    return [x * a for x in range(b) if x %% 3]\n" % (number, number)))
    if number % 3 == 2:
        records.pop(random.randrange(number), None)
