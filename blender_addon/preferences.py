"""The add-on preferences: backend, models and device, stored for this computer."""

from __future__ import annotations

import os
from pathlib import Path

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, StringProperty

from ..shared.engines import ENGINES, ROUNDINGS, EngineSettings, engines_for
from .backend import installer, proxy
from .ui.path_properties import BLEND_RELATIVE

#: The extension as Blender knows it: `bl_ext.<repo>.panoform`; this package is its `blender_addon`.
EXTENSION = __package__.rpartition(".")[0]


def _devices_here(_own: Preferences, _context: bpy.types.Context, _typed: str) -> list[tuple[str, str]]:
    """Return the devices to choose from, each with its description."""
    from .models.manager import models  # it needs these preferences

    found = models.state.devices if models.state is not None else ()
    return [("auto", "The best one"), *((device.name, device.label) for device in found)]


class Preferences(bpy.types.AddonPreferences):
    bl_idname = EXTENSION

    page: EnumProperty(
        name="Page",
        items=(
            ("BACKEND", "Backend", "The process that runs the models"),
            ("MODELS", "Models", "What is on this computer, and what can be downloaded"),
            ("DEVICE", "Device", "What the models run on"),
        ),
        options={"SKIP_SAVE"},
    )
    folder: StringProperty(
        name="Folder",
        description="Folder for the backend's environment (several gigabytes) and its logs. Uninstalling the extension "
        "keeps it: press Remove Backend before",
        subtype="DIR_PATH",
        options=BLEND_RELATIVE,
        default=str(installer.default_folder()),
    )
    packages: StringProperty(
        name="Packages From",
        description="A folder of wheels, which needs no internet, or the address of a package index (https://…). "
        "Empty: as pip is configured, else PyPI",
        subtype="DIR_PATH",
        options=BLEND_RELATIVE,
    )
    proxy: StringProperty(
        name="Proxy",
        description="Address of the proxy through which the set-up and the backend download, such as "
        "http://proxy.studio:3128. It is stored as it is, with any password in it. Empty: that of the system and pip",
    )
    backend_python: StringProperty(
        name="Python",
        description="A Python with Panoform's wheel installed. Empty: that of the environment set up by Panoform",
        subtype="FILE_PATH",
        options=BLEND_RELATIVE,
    )
    connection_file: StringProperty(
        name="Running Backend",
        description="Connection file of a backend that runs already (panoform serve), here or behind an SSH tunnel. "
        "Folders and models are then those of its computer. Empty: Panoform starts its own",
        subtype="FILE_PATH",
        options=BLEND_RELATIVE,
    )
    start_early: BoolProperty(
        name="Start Early",
        description="Start the backend when the tab Panoform is first shown, so that the first job waits less",
        default=True,
    )
    flux_model: StringProperty(
        name="FLUX Checkpoint",
        description="FLUX.1-dev: a diffusers folder, a single .safetensors or .gguf file, or a Hugging Face id",
    )
    flux_adapters: StringProperty(
        name="OmniX Adapters",
        description="A folder of OmniX adapters or a Hugging Face id. Empty: OmniX's adapters from Hugging Face",
    )
    #: Where the page about models found FLUX.1-dev with OmniX's adapters on this computer; "": nowhere.
    flux_found: StringProperty()
    multiview_model: StringProperty(
        name="Stable Diffusion 2.1",
        description="Stable Diffusion 2.1-base: a diffusers folder, a single .safetensors file, or a Hugging Face id",
    )
    multiview_adapters: StringProperty(
        name="MV-Adapter",
        description="A folder of MV-Adapter's files or a Hugging Face id. Empty: the adapters from Hugging Face",
    )
    device: StringProperty(
        name="Device", description="auto, cuda, cuda:1, mps or cpu", default="auto", search=_devices_here
    )
    dtype: EnumProperty(
        name="Precision",
        items=(
            ("auto", "Automatic", "Chosen for the device"),
            ("bf16", "bfloat16", "Half the memory of float32"),
            ("fp16", "float16", "Half the memory of float32, for older GPUs"),
            ("fp32", "float32", "Full precision, twice the memory of bfloat16"),
            ("int8", "int8", "FLUX's weights rounded to 8 bit when they are loaded: half the memory of bfloat16"),
            ("nf4", "nf4", "FLUX's weights rounded to 4 bit when they are loaded: less than a third of bfloat16"),
        ),
    )
    offload: EnumProperty(
        name="Offload",
        items=(
            # The numbers are stored in the user's preferences.
            ("auto", "Automatic", "What fits stays in device memory, and the rest arrives while it computes", 3),
            ("none", "None", "All models stay in device memory", 0),
            ("model", "Model", "Each model is in device memory only while it computes", 1),
            ("sequential", "Sequential", "As little as possible is in device memory", 2),
        ),
        default="auto",
    )
    memory: FloatProperty(
        name="GPU Memory",
        description="Most gigabytes of the GPU's memory that FLUX takes, as Blender needs some too. 0: what is free",
        default=0.0,
        min=0.0,
        soft_max=48.0,
        precision=1,
    )
    attention: StringProperty(
        name="Attention",
        description="Kernel of FLUX's attention, by its name in diffusers. auto: the one that PyTorch chooses",
        default="auto",
    )
    compile_blocks: BoolProperty(
        name="Compile",
        description="Compile FLUX's blocks: takes a minute or more at the first job, then each step is faster. Needs a "
        "C++ compiler, and Triton for a GPU",
    )

    def draw(self, context: bpy.types.Context) -> None:
        from .models import page  # it needs these preferences

        layout = self.layout
        layout.row().prop(self, "page", expand=True)
        layout.use_property_split = True
        layout.use_property_decorate = False
        column = layout.column()
        match self.page:
            case "BACKEND":
                for name in ("folder", "packages", "proxy", "backend_python", "connection_file", "start_early"):
                    column.prop(self, name)
                row = column.row()
                row.operator("panoform.setup_backend", icon="IMPORT")
                row.operator("panoform.remove_backend", icon="TRASH")
                row.operator("panoform.stop_backend", icon="X")
            case "MODELS":
                page.draw(column, self, context)
            case "DEVICE":
                for name in ("device", "dtype", "offload", "memory", "attention", "compile_blocks"):
                    column.prop(self, name)

    def environment_folder(self) -> Path:
        return Path(bpy.path.abspath(self.folder))

    def packages_place(self) -> str:
        """Return where a set-up takes packages from: a folder, the address of an index, or "" for pip's own."""
        place = self.packages.strip()
        return place if not place or "://" in place else bpy.path.abspath(place)

    def proxy_variables(self) -> dict[str, str]:
        """Return the variables of programs that name the proxy. Raise SettingError."""
        return proxy.variables(self.proxy.strip())

    def network_variables(self) -> dict[str, str]:
        """Return the variables that tell the backend how, and whether, it may download. Raise SettingError."""
        return self.proxy_variables() | ({} if bpy.app.online_access else {"HF_HUB_OFFLINE": "1"})

    def running_backend(self) -> Path | None:
        """Return the connection file of a running backend, from PANOFORM_CONNECTION_FILE or here; None: start one."""
        path = os.environ.get("PANOFORM_CONNECTION_FILE") or self.connection_file
        return Path(bpy.path.abspath(path)) if path else None

    def python(self) -> Path | None:
        """Return the user's Python, from PANOFORM_BACKEND_PYTHON or here; None for Panoform's own environment."""
        path = os.environ.get("PANOFORM_BACKEND_PYTHON") or self.backend_python
        return Path(bpy.path.abspath(path)) if path else None

    def engine_settings(self, engine: str) -> EngineSettings:
        """Return the settings of `engine` (an upper-case name) from these preferences.

        AUTO: the engine that loads a checkpoint if one is set or was found, else the bundled engine.
        """
        if engine == "AUTO":
            specs = (ENGINES[name] for name in engines_for("perceive"))
            spec = next(spec for spec in specs if spec.bundled != (bool(self.flux_model) or self.is_flux_here()))
        else:
            spec = ENGINES[engine.lower()]
        if spec.bundled:  # small: needs no offloading, runs on a CPU
            return EngineSettings(engine=spec.name, device=self.device, dtype=self.dtype)
        return EngineSettings(
            engine=spec.name,
            model=self.flux_model or None,
            adapters=self.flux_adapters or None,
            device=self.device,
            dtype=self.dtype,
            offload=self.offload,
            memory=self.memory or None,
            attention=self.attention.strip() or "auto",
            compile=self.compile_blocks,
        )

    def is_flux_here(self) -> bool:
        """Return whether FLUX.1-dev was found on this computer, and can be used without a setting."""
        # What another computer has is not known here, where its backend may be another one tomorrow.
        return bool(self.flux_found) and self.running_backend() is None and Path(self.flux_found).exists()

    def model_settings(self, engine: str) -> EngineSettings:
        """Return where the weights of `engine`, "flux" or "multiview", are, and the device."""
        own = {
            "flux": (self.flux_model, self.flux_adapters),
            "multiview": (self.multiview_model, self.multiview_adapters),
        }
        model, adapters = own[engine]
        return EngineSettings(engine=engine, model=model or None, adapters=adapters or None, device=self.device)

    def texture_engine_settings(self) -> EngineSettings:
        """Return the settings of the engine that textures meshes: the one without a model until one is set here."""
        if not self.multiview_model:
            return EngineSettings(engine="projection")
        return EngineSettings(
            engine="multiview",
            model=self.multiview_model,
            adapters=self.multiview_adapters or None,
            device=self.device,
            dtype="auto" if self.dtype in ROUNDINGS else self.dtype,  # those round FLUX's weights only
            offload=self.offload,
        )


def get() -> Preferences:
    return bpy.context.preferences.addons[EXTENSION].preferences


def change(name: str, value: str) -> None:
    """Set a preference as the user does: Blender saves it at its end (Auto-Save Preferences)."""
    setattr(get(), name, value)
    bpy.context.preferences.is_dirty = True  # a change by Python alone is forgotten


def register() -> None:
    bpy.utils.register_class(Preferences)


def unregister() -> None:
    bpy.utils.unregister_class(Preferences)
