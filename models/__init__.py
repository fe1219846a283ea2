"""Models: pre-training, frozen and fine-tuned classifiers, change detection.

Encoders:

- ``resnets.py``: Names of torchvision's ResNets, and their tensors.
- ``digests.py``: Digests of the published encoders, and those that exports carry.
- ``encoder_file.py``: Read the encoder and its input contract from any supported file.
- ``backbones.py``: ResNet encoders without their classifier, and their weights.
- ``export.py``: Export an encoder for other programs (script).

Pre-training:

- ``presets.py``: Sets of defaults for a data set, each value with its source.
- ``pretrain_args.py``: Command-line flags of views, model, optimizer and probes.
- ``group_batch_norm.py``: Batch normalisation over groups of a batch.
- ``winograd.py``: Convolutions of many channels on a CPU, with fewer products.
- ``contrast.py``: Queue of keys, InfoNCE logits and moving average of weights.
- ``bad_steps.py``: Undo, count and report training steps that are not finite; warn of a collapse.
- ``moco2_module.py``: MoCo-v2 with one or several embedding spaces, as a LightningModule.
- ``pretrain_plan.py``: The plan of a pre-training, with the measured speed of a few steps.
- ``pretrain_run.py``: Trainer, pictures and results of a pre-training.
- ``run_timing.py``: Learning rate, speed, waiting time and memory in ``timing.csv``.
- ``ssl_online.py``: Probes of the encoder during a pre-training.

Embedding:

- ``embed_args.py``: Command-line flags of main_embed.py.
- ``embedding.py``: Features of any imagery, block by block, resumable.
- ``embedding_parts.py``: Finished blocks on disk, until the whole file is written.
- ``embedding_files.py``: GeoParquet, npz and GeoTIFF of features.
- ``footprint_wkb.py``: Corners of patches as boxes and as well-known binary.
- ``neighbours.py``: The nearest patches of a query, exactly, from a file of any size.
- ``neighbour_views.py``: The query, and a table and a picture of what is similar to it.

Evaluation by classification:

- ``evaluation_args.py``: Command-line flags of all evaluation scripts.
- ``features.py``: Features of a frozen encoder, computed once and cached in a file.
- ``linear_probe.py``: A linear classifier on features, and its training by Adam.
- ``probes.py``: The methods on frozen features: Adam, L-BFGS, k nearest neighbours.
- ``best_epoch.py``: Which epoch of a training is kept.
- ``epoch_loss.py``: Mean loss of an epoch, also of one that is resumed.
- ``ssl_finetuner.py``: LightningModule of a classifier that is trained through the encoder.
- ``finetuning.py``: Train it once per repetition, with checkpoints to resume from.
- ``results.py``: Metrics of every repetition, and their summaries.
- ``score_plots.py``: Figures of an evaluation.
- ``result_views.py``: Tables, pictures and files of predictions.
- ``evaluation.py``: Run every method on every share of the labels, and write the results.

Evaluation by change detection:

- ``segmentation.py``: Siamese encoder with a U-Net decoder.
- ``change_scores.py``: Scores of change maps, and the threshold with the best F1.
- ``change_detector.py``: LightningModule of the change detector.
- ``change_runs.py``: Train and resume change detectors, and predict maps of whole images.

Reports:

- ``run_report/``: A run as one HTML file that opens from a disk, without a network.
"""
