"""One runtime alone in its process: it loads files, runs and times them. `Runtime` starts it, as a script.

    python worker.py RUNTIME THREADS        ort | openvino | xnnpack | eager | compile

Each line on stdin is a JSON order, each line on stdout its answer; arrays travel as .npy files. Nothing of prunekit is
imported, so that a runtime starts fast and has the process, its threads and its CPU time to itself.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Network = Callable[[Array], "list[Array]"]
Load = Callable[[str], Network]


def ort(threads: int) -> tuple[str, Load]:
    """onnxruntime on the CPU."""
    import onnxruntime

    options = ort_options(threads)

    def load(path: str) -> Network:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda x: list(session.run(None, {name: x}))  # type: ignore[arg-type]

    return onnxruntime.__version__, load


def ort_options(threads: int) -> Any:
    """Threads that wait sleep: spinning takes a neighbour's time."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def ort_nodes(path: str, x: Array, repeats: int) -> list[dict[str, Any]]:
    """What onnxruntime makes of the file: each node's operator, the shape of its output, its fastest pass on one
    thread, ms."""
    import onnxruntime

    options = ort_options(1)
    options.enable_profiling, options.profile_file_prefix = True, path
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    for _ in range(repeats + 2):
        session.run(None, {name: x})
    trace = session.end_profiling()
    with open(trace) as file:
        events = json.load(file)
    os.remove(trace)
    found: dict[str, dict[str, Any]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            args, ms = event["args"], event["dur"] / 1000
            shape = next(iter(args["output_type_shape"][0].values())) if args.get("output_type_shape") else []
            node = found.setdefault(event["name"], {"op": args["op_name"], "shape": shape, "ms": ms})
            node["ms"] = min(node["ms"], ms)
    return list(found.values())


def openvino(threads: int) -> tuple[str, Load]:
    """OpenVINO on the CPU, in float32: left alone it takes bfloat16 where the CPU has it."""
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }

    def load(path: str) -> Network:
        network = core.compile_model(core.read_model(path), "CPU", settings)
        request, outputs = network.create_infer_request(), network.outputs

        def run(x: Array) -> list[Array]:
            found = request.infer([x])
            return [found[output] for output in outputs]

        return run

    return openvino.__version__, load


def xnnpack(threads: int) -> tuple[str, Load]:
    """ExecuTorch with what XNNPACK took of the program, the rest in its portable kernels."""
    from importlib.metadata import version

    import torch
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    portable_lib._unsafe_reset_threadpool(threads)
    torch.set_num_threads(threads)
    runtime = Runtime.get()

    def load(path: str) -> Network:
        program = runtime.load_program(path)
        method = program.load_method("forward")
        if method is None:
            raise ValueError(f"{path} has no method 'forward'")
        return lambda x: [y.numpy() for y in method.execute([torch.from_numpy(x)])]

    return version("executorch"), load


def eager(threads: int, *, compiled: bool = False) -> tuple[str, Load]:
    """PyTorch itself, as it is or through torch.compile."""
    import torch
    from torch.utils._pytree import tree_leaves

    torch.set_num_threads(threads)

    def load(path: str) -> Network:
        module = torch.export.load(path).module()
        network = torch.compile(module) if compiled else module

        def run(x: Array) -> list[Array]:
            with torch.no_grad():
                return [y.numpy() for y in tree_leaves(network(torch.from_numpy(x)))]

        return run

    return torch.__version__, load


def compile(threads: int) -> tuple[str, Load]:
    return eager(threads, compiled=True)


RUNTIMES = {"ort": ort, "openvino": openvino, "xnnpack": xnnpack, "eager": eager, "compile": compile}


def laps(networks: dict[str, Network], inputs: dict[str, Array], repeats: int, warmup: int) -> dict[str, Any]:
    """Wall and CPU milliseconds of each pass. The networks take turns, so that a slow moment slows all of them."""
    found: dict[str, Any] = {name: {"wall_ms": [], "cpu_ms": []} for name in inputs}
    for lap in range(warmup + repeats):
        for name, x in inputs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            networks[name](x)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if lap >= warmup:
                found[name]["wall_ms"].append(1000 * wall)
                found[name]["cpu_ms"].append(1000 * cpu)
    return found


def answer(order: dict[str, Any], networks: dict[str, Network], load: Load) -> dict[str, Any]:
    """Do what one line asks for."""
    if order["do"] == "load":
        networks[order["name"]] = load(order["path"])
        return {}
    if order["do"] == "drop":
        networks.clear()
        return {}
    if order["do"] == "run":
        outputs = networks[order["name"]](np.load(order["x"]))
        for i, y in enumerate(outputs):
            np.save(f"{order['y']}.{i}.npy", y)
        return {"outputs": len(outputs)}
    if order["do"] == "nodes":
        return {"nodes": ort_nodes(order["path"], np.load(order["x"]), order["repeats"])}
    inputs = {name: np.load(path) for name, path in order["inputs"].items()}
    return laps(networks, inputs, order["repeats"], order["warmup"])


def main() -> None:
    """Answer orders, a line of JSON each, until the parent closes the pipe."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a runtime prints must not mix with the answers

    def say(reply: dict[str, Any]) -> None:
        channel.write(json.dumps(reply) + "\n")

    def failed(err: Exception) -> None:
        say({"error": f"{type(err).__name__}: {err}", "missing": isinstance(err, ImportError)})

    try:
        version, load = RUNTIMES[sys.argv[1]](int(sys.argv[2]))
    except Exception as err:
        return failed(err)
    say({"version": version})
    networks: dict[str, Network] = {}
    for line in sys.stdin:
        try:
            say(answer(json.loads(line), networks, load))
        except Exception as err:  # a runtime raises whatever it likes; the process goes on
            failed(err)


if __name__ == "__main__":
    main()
