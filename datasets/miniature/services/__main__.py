"""An Earth Engine on loopback as a process of its own.

python -m datasets.miniature.services --latency 0.05 --fault_share 0.1
"""

import argparse

from datasets.miniature.services.catalogue import Catalogue
from datasets.miniature.services.earth_engine import EarthEngineServer
from datasets.miniature.services.faults import FaultPlan


def main() -> None:
    """Serve until the process ends; the first line that is printed is the address."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--port", type=int, default=0)
    add("--latency", type=float, default=0.0)
    add("--fault_share", type=float, default=0.0)
    add("--fault_seed", type=int, default=0)
    add("--most_at_a_time", type=int, default=1000)
    add("--cloudiness", type=float, default=0.44)
    add("--cheap_pixels", action="store_true", help="the same pixels for all scenes")
    args = parser.parse_args()
    server = EarthEngineServer(
        Catalogue(cloudiness=args.cloudiness),
        port=args.port,
        latency_s=args.latency,
        fault_plan=FaultPlan(args.fault_share, args.fault_seed),
        most_at_a_time=args.most_at_a_time,
        is_cheap=args.cheap_pixels,
    )
    print(server.url, flush=True)
    server.serve_forever()


main()
