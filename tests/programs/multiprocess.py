"""multiprocessing at work: a pool, a queue with its feeder thread, a lock and shared values, round after round.

argv: go file, start method. Prints the number of each round.
"""

import multiprocessing
import sys
from multiprocessing.sharedctypes import Synchronized
from typing import Any

from tests.programs.protocol import expect, finish, is_time_to_go

WORKERS = 3
ROUND = 200


def square(number: int) -> int:
    return number * number


def count_up(total: "Synchronized[int]", tasks: Any, answers: Any) -> None:
    while (number := tasks.get()) is not None:
        with total.get_lock():
            total.value += number
        answers.put(number)


def main() -> None:
    context: Any = multiprocessing.get_context(sys.argv[2])
    total = context.Value("q", 0)
    tasks, answers = context.Queue(), context.Queue()
    counters = [
        context.Process(target=count_up, args=(total, tasks, answers)) for _ in range(WORKERS)
    ]
    for one in counters:
        one.start()
    with context.Pool(WORKERS) as pool:
        print("ready", flush=True)
        rounds = 0
        while not is_time_to_go():
            rounds += 1
            for number in range(ROUND):
                tasks.put(number)
            squares = pool.map(square, range(ROUND), chunksize=7)
            expect("squares", squares, [number * number for number in range(ROUND)])
            back = sorted(answers.get() for _ in range(ROUND))
            expect("queue", back, list(range(ROUND)))
            expect("total", total.value, rounds * sum(range(ROUND)))
            print(rounds, flush=True)
    for _ in counters:
        tasks.put(None)
    for one in counters:
        one.join()
        expect("status", one.exitcode, 0)
    finish()


if __name__ == "__main__":
    main()
