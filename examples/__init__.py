"""Six short scripts, one of them also a notebook; docs/examples.md shows what they print.

- ``pretrain_pictures.py``: Pre-train on your own folder of pictures.
- ``embed_geotiff.py``: Load SeCo weights, and see what they find in a GeoTIFF.
- ``search_city.py``: Find the patches of a city that look like a place.
- ``few_labels.py``: Evaluate an encoder on EuroSAT with a few labels per class.
- ``change_map.py``: Map what changed between two dates, without labels.
- ``export_encoder.py``: Export an encoder to timm and ONNX, and use it there.
"""
