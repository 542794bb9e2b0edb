"""What the threads of a warp do together: moves, shuffles, matrices."""

import numpy as np
import pytest

from emulator.launching import bf16, integers, launch


def test_moves_pack_and_unpack(rng):
    x = integers(rng, np.uint32, 32)
    memory = np.concatenate([x, np.zeros(64, np.uint32)])
    body = """
    mad.wide.u32 %rd2, %r3, 4, %rd1;
    mad.wide.u32 %rd3, %r3, 8, %rd1;
    ld.global.b32 %r10, [%rd2+0];
    mov.b32 {%rs1, %rs2}, %r10;
    mov.b32 %r11, {%rs2, %rs1};
    mov.b64 %rd4, {%r10, %r11};
    { .reg .b32 tmp; mov.b64 {tmp, %r12}, %rd4; }
    mov.b64 {%r13, _}, %rd4;
    st.global.v2.b32 [%rd3+128], {%r12, %r13};
    """
    got = launch(body, memory)[32:].reshape(32, 2)
    assert (got[:, 0] == (x << 16 | x >> 16)).all()
    assert (got[:, 1] == x).all()


def test_shuffles(rng):
    x = integers(rng, np.uint32, 64)
    memory = np.concatenate([x, np.zeros(64 * 5, np.uint32)])
    body = "mad.wide.u32 %rd2, %r3, 4, %rd1; ld.global.b32 %r10, [%rd2];\n"
    modes = [("bfly", "5", "31"), ("idx", "9", "31"), ("up", "3", "0"), ("down", "3", "31"), ("idx", "%r10", "31")]
    for i, (mode, b, c) in enumerate(modes):
        body += f"shfl.sync.{mode}.b32 %r{20 + i}, %r10, {b}, {c}, -1; st.global.b32 [%rd2+{256 * (i + 1)}], %r{20 + i};\n"
    launch(body, memory, threads=64)
    got = memory[64:].reshape(5, 2, 32)
    lane, warps = np.arange(32), x.reshape(2, 32)
    sources = [lane ^ 5, np.full(32, 9), np.where(lane >= 3, lane - 3, lane), np.where(lane < 29, lane + 3, lane)]
    for result, source in zip(got, sources, strict=False):
        assert (result == warps[:, source]).all()
    assert (got[4] == np.take_along_axis(warps, (warps & 31).astype(int), 1)).all()


def test_reductions_of_a_warp(rng):
    x = integers(rng, np.int32, 64)
    memory = np.concatenate([x, np.zeros(64, np.int32)])
    body = """mad.wide.u32 %rd2, %r3, 4, %rd1; ld.global.b32 %r10, [%rd2]; mov.b32 %r11, -1;
    redux.sync.max.s32 %r12, %r10, %r11; st.global.b32 [%rd2+256], %r12;"""
    got = launch(body, memory, threads=64)[64:].reshape(2, 32)
    assert (got == x.reshape(2, 32).max(axis=1, keepdims=True)).all()


def fragments(shape, matrix, operand):
    """Elements of ``matrix`` in the order of each lane's registers: [32, elements]."""
    rows = []
    for lane in range(32):
        g, t = lane >> 2, lane & 3
        if operand == "c":
            places = [(g, 2 * t), (g, 2 * t + 1), (g + 8, 2 * t), (g + 8, 2 * t + 1)][: 4 if shape != "m8n8k4" else 2]
        elif shape == "half":
            places = {
                "a": [(g, 2 * t), (g, 2 * t + 1), (g + 8, 2 * t), (g + 8, 2 * t + 1),
                      (g, 2 * t + 8), (g, 2 * t + 9), (g + 8, 2 * t + 8), (g + 8, 2 * t + 9)],
                "b": [(2 * t, g), (2 * t + 1, g), (2 * t + 8, g), (2 * t + 9, g)],
            }[operand]  # fmt: skip
        elif shape == "tf32":
            places = {"a": [(g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)], "b": [(t, g), (t + 4, g)]}[operand]
        elif shape == "m16n8k16":
            a = [(g + 8 * (i & 1), t + 4 * (i >> 1)) for i in range(8)]
            places = {"a": a, "b": [(t + 4 * i, g) for i in range(4)]}[operand]
        else:
            places = {"a": [(g, t)], "b": [(t, g)]}[operand]
        rows.append([matrix[place] for place in places])
    return np.array(rows, matrix.dtype)


PRODUCTS = [
    ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", "half", (16, 16, 8)),
    ("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", "half", (16, 16, 8)),
    ("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", "tf32", (16, 8, 8)),
    ("mma.sync.aligned.m16n8k16.row.col.f64.f64.f64.f64", "m16n8k16", (16, 16, 8)),
    ("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64", "m8n8k4", (8, 4, 8)),
]


@pytest.mark.parametrize(("instruction", "shape", "sizes"), PRODUCTS)
def test_matrix_products(instruction, shape, sizes, rng):
    m, k, n = sizes
    a, b, c = rng.integers(-8, 9, (m, k)), rng.integers(-8, 9, (k, n)), rng.integers(-99, 99, (m, n))
    if "bf16" in instruction:
        view = lambda x: np.vectorize(bf16)(x.astype(np.float64)).astype(np.uint16)  # noqa: E731
    else:
        view = lambda x: x.astype(np.float16 if shape == "half" else np.float32 if shape == "tf32" else np.float64)  # noqa: E731
    result = np.float64 if "f64" in instruction else np.float32
    word = np.uint64 if "f64" in instruction else np.uint32
    columns = [fragments(shape, view(a), "a"), fragments(shape, view(b), "b"), fragments(shape, c.astype(result), "c")]
    columns = [np.ascontiguousarray(column).view(word) for column in columns]
    counts = [column.shape[1] for column in columns]
    memory = np.concatenate([*[column.reshape(-1) for column in columns], np.zeros(32 * counts[2], word)])
    size, register = memory.itemsize, "r" if memory.itemsize == 4 else "rd"
    names, body, start, index = [], "", 0, 10
    for count in counts:
        body += f"mad.wide.u32 %rd5, %r3, {size * count}, %rd1;\n"
        names.append([f"%{register}{index + i}" for i in range(count)])
        for i, name in enumerate(names[-1]):
            body += f"ld.global.b{8 * size} {name}, [%rd5+{size * (start + i)}];\n"
        start, index = start + 32 * count, index + count
    d = [f"%{register}{index + i}" for i in range(counts[2])]
    groups = ["{ " + ", ".join(group) + " }" for group in (d, *names)]
    body += f"{instruction} {', '.join(groups)};\n"
    for i, name in enumerate(d):
        body += f"st.global.b{8 * size} [%rd5+{size * (start + i)}], {name};\n"
    launch(body, memory)
    got = memory[-32 * counts[2] :].view(result).reshape(32, counts[2])
    assert (got == fragments(shape, (a @ b + c).astype(result), "c")).all()


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_matrices_to_and_from_shared_memory(count, transposed, rng):
    """A matrix's rows lie in any order; what ldmatrix reads, stmatrix writes back elsewhere."""
    matrices = rng.integers(0, 2**16, (count, 8, 8)).astype(np.uint16)
    order = rng.permutation(8 * count)
    places = np.zeros(32, np.uint32)
    places[: 8 * count] = 16 * order
    memory = np.concatenate([matrices.reshape(-1).view(np.uint32), places, np.zeros(32 * count * 2, np.uint32)])
    rows, trans = 32 * count, ".trans" if transposed else ""
    registers = [f"%r{20 + i}" for i in range(count)]
    group = "{" + ", ".join(registers) + "}"
    body = f"""
    mad.wide.u32 %rd2, %r3, 4, %rd1;
    mad.wide.u32 %rd3, %r3, 16, %rd1;
    ld.global.b32 %r10, [%rd2+{4 * rows}];
    setp.lt.u32 %p1, %r1, {8 * count};
    @%p1 ld.global.v4.b32 {{ %r11, %r12, %r13, %r14 }}, [%rd3+0];
    @%p1 st.shared.v4.b32 [%r10], {{ %r11, %r12, %r13, %r14 }};
    bar.warp.sync -1;
    ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {group}, [%r10];
    bar.warp.sync -1;
    stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 [%r10+2048], {group};
    bar.warp.sync -1;
    shl.b32 %r40, %r1, 4;
    @%p1 ld.shared.v4.b32 {{ %r11, %r12, %r13, %r14 }}, [%r10+2048];
    @%p1 st.global.v4.b32 [%rd3+{4 * rows + 128 + 128 * count}], {{ %r11, %r12, %r13, %r14 }};
    """
    for i, register in enumerate(registers):
        body += f"st.global.b32 [%rd2+{4 * rows + 128 + 128 * i}], {register};\n"
    launch(body, memory)
    fragment = memory[rows + 32 : rows + 32 + 32 * count].reshape(count, 32)
    for matrix, registers in zip(matrices, fragment, strict=True):
        for lane, register in enumerate(registers):
            row, column = lane // 4, 2 * (lane % 4)
            pair = matrix[[column, column + 1], row] if transposed else matrix[row, [column, column + 1]]
            assert (register & 0xFFFF, register >> 16) == tuple(pair)
    assert (memory[rows + 32 + 32 * count :].view(np.uint16).reshape(matrices.shape) == matrices).all()
