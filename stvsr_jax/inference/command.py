"""What `stvsr upscale` does: pairs each input with an output and runs the job of each.

Everything that can be wrong with a request is checked before the first frame is computed; see `command_line` for the
exit codes. After an error or a stop, what is finished waits in `OUT.unfinished`, and the same command goes on from there.
"""

import argparse
import dataclasses
import os
import pathlib
import sys
from collections.abc import Sequence

import jax
import tqdm

from stvsr_jax import command_line
from stvsr_jax.inference import (
    device_network,
    device_processes,
    early_start,
    estimate,
    inputs,
    job,
    number_format,
    predictor,
    work_folder,
)
from stvsr_jax.inference import request as requests
from stvsr_jax.runtime import compilation
from stvsr_jax.weights import choice


def run(args: argparse.Namespace, processes: Sequence[device_processes.DeviceProcess] = ()) -> int:
    """Enlarges what the command line names; returns the exit code.

    Args:
      args: of `stvsr upscale`.
      processes: of the devices; none: the network runs in this process.
    """
    pairs, is_batch = _pair_up(args)
    as_pictures = is_batch and args.suffix == ""
    planned = [(pair, _make_request(args, *pair, as_pictures)) for pair in pairs]
    requests.check(_make_request(args, args.paths[0], args.paths[-1], as_pictures))
    chosen = _choose_weights(args, planned)
    if not planned:
        print("note: shard {}/{} has no input".format(*args.shard), file=sys.stderr)
        return 0
    network = _load(args, chosen, processes)
    if is_batch and not args.info:
        args.paths[-1].mkdir(exist_ok=True)
    replaced = None
    if is_batch and args.overwrite and not args.info:
        replaced = work_folder.Replaced(args.paths[-1], args.shard)
    with command_line.stop_requests("stopping after this window; once more stops at once") as stopped_by:
        code = 0
        for (source, output), request in planned:
            if is_batch:
                is_whole = os.path.exists(output) and not work_folder.is_being_finished(output)
                if is_whole and not (args.overwrite or args.info):
                    print(f"note: {output} exists: {source} is skipped", file=sys.stderr)
                    continue
                print(f"{source} -> {output}" if not args.info else f"{source}", file=sys.stderr)
            code = max(code, _run_one(args, request, network, processes, stopped_by, replaced))
            if stopped_by:
                return 128 + stopped_by[0]
    if replaced and not code:
        replaced.remove()
    return code


def _run_one(args, request, network, processes, stopped_by, replaced):
    """Returns the exit code for one input; `replaced` is that of a batch that overwrites, or None."""
    is_running = False
    try:
        plan = requests.make_plan(request, network.name)
        begun_with = work_folder.saved_settings(request.output).get("dtype")
        if args.dtype == number_format.AUTO and begun_with in number_format.DTYPES:
            network = network.with_dtype(begun_with)
        if args.info:
            for line in estimate.describe(plan) + estimate.measure(plan, network):
                print(line)
            return 0
        if replaced and replaced.holds(request.output, job.identify(plan, network)):
            print(f"note: {request.output} is done already", file=sys.stderr)
            return 0
        files = job.open_files(plan)
        for remark in (*plan.remarks, *job.notes_on(files), *estimate.remark_on_dtype(network)):
            print(f"note: {remark}", file=sys.stderr)
        is_running = True
        with tqdm.tqdm(total=plan.output_frames, unit="frame", smoothing=0.1, dynamic_ncols=True) as bar:

            def show(done, is_new):
                bar.initial = bar.initial if is_new else done  # what was done before does not count for speed
                bar.update(done - bar.n)

            notes = job.run(plan, network, files, on_progress=show, should_stop=lambda: bool(stopped_by))
        for remark in notes:
            print(f"note: {remark}", file=sys.stderr)
        early_start.remember(args, request.input, processes)
        if replaced:
            replaced.add(request.output, job.identify(plan, network))
    except job.Stopped as stop:
        print(stop, file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("stopped at once; the same command goes on after the last finished segment", file=sys.stderr)
        return 130
    except Exception as error:  # of any kind: it must not end the other inputs of a batch
        if not isinstance(error, command_line.expected_errors()) or not str(error):
            error = f"{type(error).__name__}: {error}".removesuffix(": ")
        if is_running and os.path.exists(waiting := work_folder.path_of(request.output)):
            error = f"{error}; what is finished is in {waiting}, the same command goes on from there"
        return command_line.fail(error, command_line.FAILED if is_running else command_line.WRONG_INPUT)
    return 0


def _pair_up(args):
    paths = list(args.paths)
    output = pathlib.Path("out.mp4")
    if len(paths) > 1 and not (args.info and paths[-1].exists()):
        output = paths.pop()
    elif not args.info:
        raise ValueError(f"no output given for {paths[0]}")
    suffix = (
        {"ffv1": ".mkv", "prores": ".mov"}.get(args.codec, ".mp4") if args.suffix is None else args.suffix
    )
    pairs, is_batch = inputs.pair_up(paths, output, suffix=suffix, shard=args.shard)
    if is_batch and not args.info:
        if args.compare:
            raise ValueError("--compare goes with one input")
    return pairs, is_batch


def _make_request(args, source, output, as_pictures):
    names = {field.name for field in dataclasses.fields(requests.Request)} - {
        "input",
        "output",
        "as_pictures",
    }
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    return requests.Request(source, output, as_pictures=as_pictures, **given)


def _choose_weights(args, planned):
    return choice.choose(
        checkpoint=args.checkpoint,
        model=args.model,
        space=args.space,
        time=args.time,
        size=args.size,
        fps=args.fps,
        is_video=any(source.is_file() for (source, _), _ in planned),
    )


def _load(args, chosen, processes):
    if chosen.remark:
        print(chosen.remark, file=sys.stderr)
    compilation.keep_compiled_programs()
    platform = device_network.platform_of(processes[0]) if processes else jax.default_backend()
    network = predictor.Predictor.from_pretrained(
        chosen.source,
        weights=args.weights,
        dtype=number_format.DTYPES[number_format.choose_dtype(args.dtype, platform)],
        ensemble=args.ensemble,
        devices=jax.local_devices(),
    )
    return device_network.DeviceNetwork(network, processes) if processes else network
