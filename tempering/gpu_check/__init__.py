"""`make gpu-check`: whether the engine is right and how fast it is on this machine's GPU, in one command, with nothing downloaded.

Small random models compare the GPU with a plain loop on the processor in float32: every layout and switch of the engine, every attention
implementation that is here, micro-batches, bfloat16, a run that stops and resumes, sampling. A random model of 1.2 billion weights then trains for a
few steps in full, with LoRA and with DPO, for tokens per second and peak memory. What a machine lacks is written down as "not here", never as passed.

The result is one JSON file: {date, versions, gpu, small, checks: [{name, passed, value, bound, seconds, note}]}; `passed` is null where nothing could
be run, and `value` is held to be at most `bound` (null: a number to know, with nothing to hold it to). Exit code 1 if a check
failed, 2 without a GPU. `--device cpu --small` runs the same code anywhere, on tiny models.
"""
