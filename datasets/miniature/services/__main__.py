"""An Earth Engine on loopback as a process of its own.

python -m datasets.miniature.services --latency 0.05 --fault_share 0.1
"""

import argparse

from datasets.miniature.services.earth_engine import EarthEngineServer
from datasets.miniature.services.faults import FaultPlan

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--port", type=int, default=0, help="0 chooses a free one")
parser.add_argument("--latency", type=float, default=0.0)
parser.add_argument("--fault_share", type=float, default=0.0)
parser.add_argument("--cheap_pixels", action="store_true", help="the same pixels for all scenes")
args = parser.parse_args()
server = EarthEngineServer(
    latency_s=args.latency,
    fault_plan=FaultPlan(args.fault_share),
    is_cheap=args.cheap_pixels,
    port=args.port,
)
print(server.url, flush=True)  # the only line
server.serve_forever()
