"""What do we know? Importing this package imports every table, so that `Base.metadata` is complete.

No list names the tables: each module of each room is imported, but for `data_map`, which holds none.
"""

from importlib import import_module
from pkgutil import iter_modules

for _room in iter_modules(__path__, f"{__name__}."):
    if _room.name == f"{__name__}.data_map":
        continue
    for _module in iter_modules(import_module(_room.name).__path__, f"{_room.name}."):
        # A package inside a room is the migrations, which read the tables and hold none.
        if not _module.ispkg:
            import_module(_module.name)
