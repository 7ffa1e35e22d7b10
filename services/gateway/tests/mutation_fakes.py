"""Messages with bytes changed, and the statuses such a message may end in."""

import random

import grpc

MUTATIONS = 150
CLEAN = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.ALREADY_EXISTS,
}


def mutated(message: bytes, dice: random.Random) -> bytes:
    """Return a message with bytes changed, put in, cut out, repeated or cut off."""
    made = bytearray(message or b"\x0a\x01a")
    for _ in range(dice.randint(1, 4)):
        place = dice.randrange(len(made) + 1)
        match dice.randrange(6):
            case 0:
                made[place : place + 1] = bytes([dice.randrange(256)])
            case 1:
                made[place:place] = dice.randbytes(dice.randint(1, 8))
            case 2:
                del made[place : place + dice.randint(1, 4)]
            case 3:
                made += made[place:]
            case 4:
                del made[place:]
            case _:
                made[place:place] = b"\xff" * 9 + b"\x01"
    return bytes(made[:10_000])
