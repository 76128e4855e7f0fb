"""The peers of `expert_product.py`: the same routed experts by other libraries, each in a process.

    python benchmarks/expert_peers.py NAME      (started by expert_product.py)

Says {"ready": what} when its weights are in memory, then answers {"rows": R} with {"seconds": t},
R rows for each expert, one line of JSON each. A peer that cannot run says {"error": why}.
Weights are random: the time does not depend on them. Each peer computes gate, up, SwiGLU and down
of all rows; the weighted sum is left out where a peer has it apart (to its favour).
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Callable
from ctypes import c_bool, c_char_p, c_float, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path

EXPERTS, TOP_K, HIDDEN, INTERMEDIATE, GROUP = 24, 8, 7168, 2048, 32
Runner = Callable[[int], float]


def tokens_of(rows: int) -> int:
    """Tokens that give each of the 24 experts `rows` rows, 8 experts per token."""
    return rows * EXPERTS // TOP_K


def torch_peer(threads: int) -> Runner:
    """`torch._weight_int4pack_mm_for_cpu`, bfloat16 activations, one call a matrix."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(threads)
    product = torch.ops.aten._weight_int4pack_mm_for_cpu

    def matrix(outputs: int, inputs: int) -> tuple[torch.Tensor, torch.Tensor]:
        q = torch.randint(0, 16, (outputs, inputs), dtype=torch.int32)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(q, 1)
        scale = torch.rand(inputs // GROUP, outputs, 2).mul_(0.01).to(torch.bfloat16)
        return packed, scale

    sizes = [(INTERMEDIATE, HIDDEN), (INTERMEDIATE, HIDDEN), (HIDDEN, INTERMEDIATE)]
    experts = [[matrix(*size) for size in sizes] for _ in range(EXPERTS)]

    def run(rows: int) -> float:
        x = torch.randn(rows, HIDDEN).to(torch.bfloat16)
        start = time.perf_counter()
        for gate, up, down in experts:
            hidden = F.silu(product(x, gate[0], GROUP, gate[1]))
            hidden = hidden * product(x, up[0], GROUP, up[1])
            product(hidden, down[0], GROUP, down[1])
        return time.perf_counter() - start

    return run


def kt_peer(kernel: str) -> Callable[[int], Runner]:
    """A class of kt-kernel on the checkpoint's packed weights."""

    def start(threads: int) -> Runner:
        import torch
        from kt_kernel import kt_kernel_ext as kt

        pool = kt.WorkerPoolConfig()
        pool.subpool_count, pool.subpool_numa_map = 1, [0]
        pool.subpool_thread_count = [threads]
        cpu = kt.CPUInfer(pool)
        sizes = [(INTERMEDIATE, HIDDEN), (INTERMEDIATE, HIDDEN), (HIDDEN, INTERMEDIATE)]
        one = [torch.randint(0, 256, (o, i // 2), dtype=torch.uint8) for o, i in sizes]
        scale = [torch.rand(o, i // GROUP).mul_(0.01).to(torch.bfloat16) for o, i in sizes]
        on_gpu = torch.zeros(EXPERTS, dtype=torch.bool)
        config = kt.moe.MOEConfig(EXPERTS, TOP_K, HIDDEN, INTERMEDIATE, on_gpu.data_ptr())
        config.layer_idx, config.pool, config.max_len = 0, cpu.backend_, tokens_of(64)
        # It copies what it is given, so all experts may come from the same tensors.
        for name, weight, factor in zip(("gate", "up", "down"), one, scale, strict=True):
            setattr(config, f"{name}_projs", [[weight.data_ptr()] * EXPERTS])
            setattr(config, f"{name}_scales", [[factor.data_ptr()] * EXPERTS])
        config.quant_config.bits, config.quant_config.group_size = 4, GROUP
        config.quant_config.zero_point = False
        moe = getattr(kt.moe, kernel)(config)
        order = torch.arange(EXPERTS, dtype=torch.int64)
        cpu.submit(moe.load_weights_task(order.data_ptr()))
        cpu.sync()

        def run(rows: int) -> float:
            tokens = tokens_of(rows)
            first = torch.arange(tokens)[:, None] % (EXPERTS // TOP_K) * TOP_K
            ids = (first + torch.arange(TOP_K)).to(torch.int64).contiguous()
            weights = torch.rand(tokens, TOP_K)
            x = torch.randn(tokens, HIDDEN).to(torch.bfloat16)
            y = torch.empty_like(x)
            count = torch.tensor([tokens], dtype=torch.int32)
            begin = time.perf_counter()
            cpu.submit(
                moe.forward_task(
                    count.data_ptr(),
                    TOP_K,
                    ids.data_ptr(),
                    weights.data_ptr(),
                    x.data_ptr(),
                    y.data_ptr(),
                    False,
                )
            )
            cpu.sync()
            return time.perf_counter() - begin

        return run

    return start


class _InitParams(ctypes.Structure):
    _fields_ = [("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool)]


GGML_F32, GGML_Q4_0, GGML_Q4_K, GGML_I32 = 0, 2, 12, 26


def ggml_peer(type_number: int) -> Callable[[int], Runner]:
    """ggml's `mul_mat_id` on repacked weights, by the library inside the xllamacpp package."""

    def start(threads: int) -> Runner:
        import importlib.util

        import torch

        spec = importlib.util.find_spec("xllamacpp")
        if spec is None or spec.origin is None:
            raise ImportError("xllamacpp is not installed")
        ggml = ctypes.CDLL(str(next(Path(spec.origin).parent.glob("xllamacpp*.so"))))

        def bind(name: str, result: object, *arguments: object) -> Callable[..., int]:
            function = getattr(ggml, name)
            function.restype, function.argtypes = result, list(arguments)
            return function

        pointer = c_void_p
        init = bind("ggml_init", pointer, _InitParams)
        tensor_3d = bind("ggml_new_tensor_3d", pointer, pointer, c_int, c_int64, c_int64, c_int64)
        nbytes = bind("ggml_nbytes", c_size_t, pointer)
        set_tensor = bind("ggml_backend_tensor_set", None, pointer, pointer, c_size_t, c_size_t)
        mul_mat_id = bind("ggml_mul_mat_id", pointer, pointer, pointer, pointer, pointer)
        swiglu = bind("ggml_swiglu_split", pointer, pointer, pointer, pointer)
        alloc_in = bind("ggml_backend_alloc_ctx_tensors_from_buft", pointer, pointer, pointer)
        alloc = bind("ggml_backend_alloc_ctx_tensors", pointer, pointer, pointer)
        quantize = bind(
            "ggml_quantize_chunk",
            c_size_t, c_int, pointer, pointer, c_int64, c_int64, c_int64, pointer,
        )  # fmt: skip
        free = bind("ggml_free", None, pointer)
        free_buffer = bind("ggml_backend_buffer_free", None, pointer)
        compute = bind("ggml_backend_graph_compute", c_int, pointer, pointer)
        registry = bind("ggml_backend_cpu_reg", pointer)()
        address = bind("ggml_backend_reg_get_proc_address", pointer, pointer, c_char_p)(
            registry, b"ggml_backend_dev_get_extra_bufts"
        )
        device = bind("ggml_backend_reg_dev_get", pointer, pointer, c_size_t)(registry, 0)
        extra = ctypes.CFUNCTYPE(ctypes.POINTER(pointer), pointer)(address)(device)
        name_of = bind("ggml_backend_buft_name", c_char_p, pointer)
        kinds = []
        while extra[len(kinds)]:
            kinds.append(extra[len(kinds)])
        repack = next(kind for kind in kinds if b"REPACK" in name_of(kind).upper())
        backend = bind("ggml_backend_cpu_init", pointer)()
        bind("ggml_backend_cpu_set_n_threads", None, pointer, c_int)(backend, threads)

        context = init(_InitParams(1 << 20, None, True))
        shapes = [(HIDDEN, INTERMEDIATE), (HIDDEN, INTERMEDIATE), (INTERMEDIATE, HIDDEN)]
        weights = [tensor_3d(context, type_number, i, o, EXPERTS) for i, o in shapes]
        if not alloc_in(context, repack):
            raise RuntimeError("ggml has no repacked buffer for this type")
        for tensor, (inputs, outputs) in zip(weights, shapes, strict=True):
            numbers = torch.randn(outputs, inputs) * 0.01
            size = nbytes(tensor) // EXPERTS
            one = (ctypes.c_uint8 * size)()
            quantize(type_number, numbers.data_ptr(), one, 0, outputs, inputs, None)
            whole = (ctypes.c_uint8 * (size * EXPERTS)).from_buffer(bytearray(bytes(one) * EXPERTS))
            set_tensor(tensor, whole, 0, size * EXPERTS)
            del whole

        def run(rows: int) -> float:
            tokens = tokens_of(rows)
            work = init(_InitParams(4 << 20, None, True))
            x = tensor_3d(work, GGML_F32, HIDDEN, 1, tokens)
            ids = tensor_3d(work, GGML_I32, TOP_K, tokens, 1)
            gate = mul_mat_id(work, weights[0], x, ids)
            up = mul_mat_id(work, weights[1], x, ids)
            down = mul_mat_id(work, weights[2], swiglu(work, gate, up), ids)
            graph = bind("ggml_new_graph", pointer, pointer)(work)
            bind("ggml_build_forward_expand", None, pointer, pointer)(graph, down)
            buffer = alloc(work, backend)
            values = torch.randn(tokens, HIDDEN)
            first = torch.arange(tokens)[:, None] % (EXPERTS // TOP_K) * TOP_K
            chosen = (first + torch.arange(TOP_K)).to(torch.int32).contiguous()
            set_tensor(x, values.data_ptr(), 0, values.numel() * 4)
            set_tensor(ids, chosen.data_ptr(), 0, chosen.numel() * 4)
            begin = time.perf_counter()
            code = compute(backend, graph)
            seconds = time.perf_counter() - begin
            answer = (c_float * 16)()
            bind("ggml_backend_tensor_get", None, pointer, pointer, c_size_t, c_size_t)(
                down, answer, 0, 64
            )
            free_buffer(buffer)
            free(work)
            if code != 0 or not any(answer):
                raise RuntimeError(f"ggml answered {code}")
            return seconds

        return run

    return start


PEERS: dict[str, Callable[[int], Runner]] = {
    "ggml Q4_0": ggml_peer(GGML_Q4_0),
    "ggml Q4_K": ggml_peer(GGML_Q4_K),
    "torch int4pack": torch_peer,
    "kt AMXInt4_KGroup": kt_peer("AMXInt4_KGroup_MOE"),
    "kt RAWINT4": kt_peer("AVXVNNI256RawInt4_MOE"),
}


def main() -> None:
    name, threads = sys.argv[1], int(sys.argv[2])
    # Libraries print to standard output as they please; the answers keep their own channel.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        run = PEERS[name](threads)
        run(1)
        print(json.dumps({"ready": name}), file=answers)
        for line in sys.stdin:
            print(json.dumps({"seconds": run(json.loads(line)["rows"])}), file=answers)
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=answers)
    # Worker threads of some peers do not end by themselves.
    answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
