"""Two guesses and a measurement at once; the fit runs when all three are there."""

import random
import time

import trun


def simulate(seed: int) -> float:
    random.seed(seed)
    time.sleep(1)
    return random.random()


def measure() -> float:
    time.sleep(0.5)
    return 0.5


def fit(data: float, *guesses: float) -> float:
    return min(guesses, key=lambda guess: abs(guess - data))


with trun.local(workers=4):
    data = trun.submit(measure)
    s1, s2 = trun.submit(simulate, 1), trun.submit(simulate, 2)
    best = trun.submit(fit, data, s1, s2, when=data.iscompleted & s1.iscompleted & s2.iscompleted)
print("best guess:", best.result())
