"""The Blender add-on. It runs in Blender's Python and never imports torch."""

from . import command, preferences, properties, translation
from .backend import operators as backend_operators
from .backend import panel as backend_panel
from .capture import operators as capture_operators
from .capture import panel as capture_panel
from .capture import render
from .generate import deleted, gallery_operators, world_preview
from .generate import operators as generate_operators
from .generate import panel as generate_panel
from .generate import properties as generate_properties
from .jobs import manager, status_bar, timer
from .jobs import operators as jobs_operators
from .jobs import panel as jobs_panel
from .models import manager as models_manager
from .models import operators as models_operators
from .models import timer as models_timer
from .open_file import menus as open_file_menus
from .open_file import operators as open_file_operators
from .perceive import look_around, look_operators
from .perceive import operators as perceive_operators
from .perceive import panel as perceive_panel
from .presets import menus as presets_menus
from .presets import operators as presets_operators
from .scene import export_operators as scene_export_operators
from .scene import lights as scene_lights
from .scene import measure as scene_measure
from .scene import operators as scene_operators
from .scene import panel as scene_panel
from .scene import shadow_catcher as scene_shadow_catcher
from .texture import operators as texture_operators
from .texture import panel as texture_panel
from .texture import properties as texture_properties
from .ui import previews

#: Modules in the order of registration: dependencies first.
FEATURES = (
    translation,
    preferences,
    generate_properties,
    texture_properties,
    properties,
    previews,
    world_preview,
    render,
    backend_operators,
    capture_operators,
    perceive_operators,
    look_operators,
    look_around,
    generate_operators,
    deleted,
    gallery_operators,
    scene_operators,
    scene_measure,
    scene_export_operators,
    scene_shadow_catcher,
    scene_lights,
    texture_operators,
    jobs_operators,
    models_operators,
    presets_operators,
    presets_menus,
    open_file_operators,
    open_file_menus,
    backend_panel,
    capture_panel,
    perceive_panel,
    generate_panel,
    scene_panel,
    texture_panel,
    jobs_panel,
    status_bar,
    command,
    manager,
    timer,
    models_manager,
    models_timer,
)


def register() -> None:
    for feature in FEATURES:
        feature.register()


def unregister() -> None:
    for feature in reversed(FEATURES):
        feature.unregister()
