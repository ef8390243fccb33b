"""What befalls the system, and when: a plan drawn from the seed."""

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator

from django.conf import settings

from chaos.relay import Relay
from chaos.world import Part, World

READY_LIMIT = 8  # seconds that a blow waits for its victim to be back from the last one
BUSY_LIMIT = 3  # seconds that a blow waits for a worker to have something in hand


class Storm:
    def __init__(self, world: World, relay: Relay, seed: int, kills: int, gap: float):
        self.world = world
        self.relay = relay
        self.gap = gap
        self.dice = random.Random(f"{seed} storm")
        self.plan = self._plan(kills)
        self.done: list[str] = []
        self._last = float("inf")  # when the last blow fell

    @property
    def progress(self) -> float:
        """From 0 to 1. Blows wait for their victims, so that only the storm knows how far it is."""
        since = min(max(0.0, time.monotonic() - self._last) / self.gap, 1)
        return min((len(self.done) + since) / len(self.plan), 1)

    @property
    def summary(self) -> str:
        return ", ".join(f"{count} {blow}" for blow, count in sorted(Counter(self.done).items()))

    def _plan(self, kills: int) -> list[str]:
        """Kills of each kind in equal parts, and about half as many other blows, shuffled."""
        kinds = ["kill a worker", "kill the web server", "kill Valkey"]
        kinds.append("kill the database" if self.world.database else "kill everything")
        plan = [kinds[n % len(kinds)] for n in range(kills)]
        others = ["FLUSHALL", "stop a worker", "pause a worker", "close the relay's port"]
        plan += [others[n % len(others)] for n in range(max(len(others), kills // 2))]
        if self.world.database:
            plan += ["kill everything"] * max(1, kills // 25)
        self.dice.shuffle(plan)
        return plan

    def rage(self) -> Iterator[str]:
        """One blow after another; what happened, in words."""
        self._last = time.monotonic()
        for blow in self.plan:
            self.world.run_until(lambda: False, self.dice.uniform(0.2, 1.8) * self.gap)
            yield blow
            self._strike(blow)
            self.done.append(blow)
            self._last = time.monotonic()

    def _strike(self, blow: str) -> None:
        world, dice = self.world, self.dice
        away = dice.uniform(0.1, 2)
        match blow:
            case "kill a worker":
                world.kill([self._victim(dice.choice(world.workers))], away)
            case "kill the web server":
                world.kill([self._victim(world.web)], away)
            case "kill Valkey":
                world.kill([self._victim(world.valkey)], away)
            case "kill the database":
                world.kill([self._victim(world.database)], away)
            case "kill everything":
                world.kill([part for part in world.parts if part.running], away)
            case "FLUSHALL":
                world.flush()
            case "stop a worker":
                world.leave(self._victim(dice.choice(world.workers)), dice.choice([signal.SIGTERM, signal.SIGINT]))
            case "pause a worker":
                world.pause(
                    self._victim(dice.choice(world.workers)), settings.LEASE.total_seconds() * dice.uniform(0.5, 2)
                )
            case "close the relay's port":
                self.relay.close()
                world.later(dice.uniform(0.5, 4), self.relay.open)

    def _victim(self, part: Part) -> Part:
        """A blow to what is down anyway, or to a worker with empty hands, would be wasted: waits a while for better."""
        world = self.world
        world.run_until(lambda: part.is_ready() and not part.paused and not part.leave_until, READY_LIMIT)
        world.run_until(lambda: part.running, READY_LIMIT)
        if part in world.workers:
            world.run_until(lambda: not part.running or world.holds_mail(part), BUSY_LIMIT)
            world.run_until(lambda: part.running, READY_LIMIT)
        return part
