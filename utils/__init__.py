"""Code that data sets, models and scripts share.

Errors, files and processes:

- ``errors.py``: The error of a user, and its one-line message.
- ``files.py``: Files written completely or not at all, checks of paths, and lists of names.
- ``locks.py``: A lock between processes.
- ``pools.py``: Worker processes that end without a traceback when interrupted.
- ``cores.py``: Number of cores that this process may use.
- ``progress.py``: Progress bar of long work.

Downloads and archives:

- ``retry.py``: The error of a request that may work later, and the header Retry-After.
- ``download.py``: Download files with resume, retries, mirrors and checksums.
- ``unpack.py``: Unpack verified archives; compression methods of zips.
- ``collection.py``: Groups of files to download and unpack, and their command line.
- ``images.py``: Pillow's errors for damaged images, and bits per channel.

Command line and start of a run:

- ``flags.py``: Argument parser with one-line errors, and checks of values.
- ``cli.py``: Flags that the scripts share, and running a script to its exit code.
- ``launchers.py``: Environment variables of torchrun, SLURM and Lightning.
- ``launch.py``: Number of processes, and Lightning's settings for them.
- ``precision.py``: Numerical precision that a device supports.

Samples and views:

- ``data.py``: Random numbers and order of the samples as functions of seed and epoch; a loader.
- ``subset.py``: Fractions of a train set.
- ``input_spec.py``: Input contract of an encoder, and conversion of data sets to it.
- ``probe_data.py``: Labelled pictures of a data set, as evaluation takes them.
- ``augment_config.py``: Distribution of the views.
- ``view_draws.py``: Draw the random parameters of each view.
- ``fused_views.py``: Views on a GPU, as operators around the kernels.
- ``view_kernels.py``: Triton kernels of the views.
- ``resample.py``: Crop, resize, flip and blur as matrices.
- ``color_jitter.py``: Colour operations on a batch.
- ``transforms.py``: Views of a batch, and transforms of single images.
- ``augment_cpu.py``: Views on a CPU, one sample at a time.

Checkpoints:

- ``torch_files.py``: Read files of ``torch.save`` without running code in them.
- ``checkpoint.py``: Write and check the checkpoints of a run.
- ``resume.py``: Restore the flags of a run from the file next to its checkpoint.

Training and results:

- ``distributed.py``: Exchange of tensors between processes.
- ``training.py``: Lightning's trainer for every script, with progress, checkpoints and a joint end.
- ``metrics.py``: Metrics over a data set, with confidence intervals.
- ``plots.py``: Figures of results.
- ``report.py``: results.json, with versions and arguments of the run.
"""
