# SPDX-License-Identifier: Apache-2.0
"""What importing costs and touches, and what happens where torch or ml_dtypes is missing or not the expected one."""

import numpy as np
import pytest

import dlbridge
from isolated import FROM_HELPERS, HAS_TORCH, needs_torch, run_isolated


def test_build_info() -> None:
    info = dlbridge.build_info()
    assert {"version", "numpy", "torch", "torch_tier", "cuda", "dlpack"} <= set(info)
    assert info["version"] == dlbridge.__version__
    assert info["numpy"] == np.__version__
    assert (info["torch"] is not None) == HAS_TORCH
    assert info["torch_tier"] in ("direct", "exchange", "none")
    assert info["cuda"] and isinstance(info["cuda"], str)
    assert tuple(map(int, info["dlpack"].split("."))) >= (1, 3)


def test_public_names() -> None:
    names = ["to_torch", "to_numpy", "from_dlpack", "explain", "shares_memory", "build_info", "Tensor", "Plan"]
    for name in [*names, "ExchangeError"]:
        assert hasattr(dlbridge, name)
        assert name in dlbridge.__all__
        assert getattr(dlbridge, name).__doc__


def test_import_is_cheap():
    run_isolated(
        """
        import sys
        import numpy
        before = set(sys.modules)
        import dlbridge
        # What importing costs: few modules beyond NumPy's, and none that is slow to import.
        loaded = {name for name in set(sys.modules) - before if not name.startswith("dlbridge")}
        assert len(loaded) <= 12, sorted(loaded)
        assert dlbridge.dtypes["bfloat16"].bits == 16
        assert "torch" not in sys.modules and "ml_dtypes" not in sys.modules
        dlbridge.to_numpy(dlbridge.from_dlpack(numpy.zeros(3)))
        assert "torch" not in sys.modules and "ml_dtypes" not in sys.modules
        """,
        prelude="",
    )


def test_works_without_torch():
    run_isolated(
        """
        import sys
        sys.modules["torch"] = None   # importing it fails from here on
        import numpy as np
        import dlbridge
        a = np.arange(5.0)
        assert dlbridge.to_numpy(dlbridge.from_dlpack(a)).ctypes.data == a.ctypes.data
        error = refusal(lambda: dlbridge.to_torch(a))
        assert error.code == "adapter_unavailable" and "pip install torch" in str(error), error
        info = dlbridge.build_info()
        assert info["torch_tier"] == "none" and "pip install torch" in info["torch_tier_reason"]
        """,
        prelude=FROM_HELPERS,
    )


@needs_torch
def test_another_torch_lowers_the_tier():
    run_isolated(
        """
        os.environ.pop("DLBRIDGE_TORCH_TIER", None)
        torch.__version__ = "2.14.9+forged"
        a = np.arange(6.0)
        t = dlbridge.to_torch(a)
        assert t.data_ptr() == a.ctypes.data and t.tolist() == a.tolist()
        assert dlbridge.to_numpy(t).ctypes.data == a.ctypes.data
        assert not [name for name in sys.modules if name.startswith("dlbridge._torch_2")]
        info = dlbridge.build_info()
        assert info["torch_tier"] == "exchange" and "2.14.9+forged" in info["torch_tier_reason"], info
        """
    )


@needs_torch
@pytest.mark.direct_tier
def test_other_builds_of_a_version_share_its_module():
    run_isolated(
        """
        major, minor = torch.__version__.split(".")[:2]
        torch.__version__ = f"{major}.{minor}.9.dev20991231+forged"
        a = np.arange(6.0)
        assert dlbridge.to_torch(a).data_ptr() == a.ctypes.data
        assert dlbridge.build_info()["torch_tier"] == "direct", dlbridge.build_info()
        """
    )


@needs_torch
@pytest.mark.direct_tier
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ("torch._C._GLIBCXX_USE_CXX11_ABI = False", "C++ ABI"),
        ("torch.version.debug = True", "a debug build"),
        ("sys.modules[f'dlbridge._torch_{major}_{minor}'] = None", "cannot be loaded"),
    ],
)
def test_a_torch_of_another_build_lowers_the_tier(spoil, reason):
    run_isolated(
        f"""
        major, minor = torch.__version__.split(".")[:2]
        {spoil}
        a = np.arange(6.0)
        info = dlbridge.build_info()
        assert info["torch_tier"] != "direct" and {reason!r} in info["torch_tier_reason"], info
        assert not [n for n, module in sys.modules.items() if n.startswith("dlbridge._torch_2") and module]
        """
    )


@needs_torch
@pytest.mark.parametrize(
    ("tier", "spoil", "reason"),
    [
        ("direct", "torch.__version__ = '2.14.9+forged'", "2.14.9+forged"),
        ("exchange", "del torch.Tensor.__dlpack_c_exchange_api__", "no DLPack exchange table"),
        ("exchange", "del torch._C._dispatch_keys", "_dispatch_keys"),
    ],
)
def test_unavailable_tiers_are_refused(tier, spoil, reason):
    run_isolated(
        f"""
        os.environ["DLBRIDGE_TORCH_TIER"] = "{tier}"
        {spoil}
        error = refusal(lambda: dlbridge.to_torch(np.zeros(3)))
        assert error.code == "adapter_unavailable" and {reason!r} in str(error), error
        info = dlbridge.build_info()
        assert info["torch_tier"] == "none" and {reason!r} in info["torch_tier_reason"], info
        """
    )


@needs_torch
def test_torch_without_tier_is_refused():
    run_isolated(
        """
        os.environ.pop("DLBRIDGE_TORCH_TIER", None)
        torch.__version__ = "2.9.0"
        del torch.Tensor.__dlpack_c_exchange_api__
        error = refusal(lambda: dlbridge.to_torch(np.arange(6.0)))
        assert error.code == "adapter_unavailable", error
        assert "cannot reach torch 2.9.0" in str(error) and "torch 2.10" in str(error), error
        assert dlbridge.build_info()["torch_tier"] == "none"
        """
    )


@needs_torch
@pytest.mark.parametrize("has_cuda, code", [(False, "no_driver"), (True, "no_staging")])
def test_device_memory_needs_cuda_module(has_cuda, code):
    run_isolated(
        f"""
        from capsules import Crafted
        from dlbridge import _adapters, _torch_gpu
        _adapters.load_device_module = lambda: "this build has none"
        _torch_gpu.has_cuda = lambda: {has_cuda}
        capsule = Crafted(device=(2, 0)).capsule()
        assert dlbridge.explain(capsule, "torch").reasons == ["{code}"]
        class Array:
            __cuda_array_interface__ = dict(version=3, shape=(3,), typestr="<f4", data=(1 << 40, False))
        for to, request in (("numpy", dict(device="cpu")), ("dlpack", dict())):
            plan = dlbridge.explain(Array(), to, **request)
            assert plan.reasons[0] == "no_staging" and "this build has none" in plan.message, plan
        error = refusal(lambda: dlbridge.to_torch(capsule))
        assert error.code == "{code}", error
        """
    )


def test_unknown_tiers_are_refused():
    run_isolated(
        """
        import os
        os.environ["DLBRIDGE_TORCH_TIER"] = "fast"
        import numpy as np
        import dlbridge
        for call in (lambda: dlbridge.to_torch(np.zeros(3)), dlbridge.build_info):
            error = refusal(call)
            assert error.field == "DLBRIDGE_TORCH_TIER", error
            assert "direct, exchange" in str(error), error
        """,
        prelude=FROM_HELPERS,
    )


@needs_torch
def test_missing_ml_dtypes_is_named():
    run_isolated(
        """
        sys.modules["ml_dtypes"] = None
        for dtype in (torch.bfloat16, torch.float8_e4m3fn):
            t = torch.ones(4).to(dtype)
            error = refusal(lambda: to_numpy(t))
            assert error.code == "missing_ml_dtypes" and "install ml_dtypes" in str(error), error
            assert dlbridge.explain(t, "numpy").reasons == ["missing_ml_dtypes"]
            assert to_numpy(t, dtype="float32").tolist() == [1.0] * 4
        """
    )


def test_subinterpreters_are_refused():
    run_isolated(
        """
        import importlib, importlib.util, os, sys
        import numpy as np
        import dlbridge
        name = next(n for n in ("_interpreters", "_xxsubinterpreters") if importlib.util.find_spec(n))
        interpreters = importlib.import_module(name)
        other = interpreters.create()
        read, write = os.pipe()
        code = f"import os, sys; sys.path[:] = {sys.path!r}; said = 'nothing'"
        code += "\\ntry: import dlbridge\\nexcept ImportError as error: said = str(error)"
        interpreters.run_string(other, code + f"\\nos.write({write}, said.encode())")
        said = os.read(read, 1000).decode()
        assert "subinterpreter" in said, said
        interpreters.destroy(other)
        a = np.ones(3)
        assert dlbridge.shares_memory(dlbridge.from_dlpack(a).numpy(), a)
        """,
        prelude="",
    )
