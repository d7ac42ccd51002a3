"""Whether the sections, parameters and macros that gin files name are there."""

import difflib
from collections.abc import Collection, Mapping

import gin

from block_recurrent.config.gin_files import COMMAND_LINE, Binding
from block_recurrent.errors import UserError

Bindings = Mapping[tuple[str, str], Binding]  # by section and name; a macro's section is ""
Parameters = Mapping[str, Collection[str]]  # the parameters of each section


def check_names(bindings: Bindings, parameters: Parameters):
    """Raises UserError, naming the nearest real one, for a name that is not there."""
    for binding in bindings.values():
        if binding.section:
            _check_parameter(binding, parameters)
    macros = {name: binding for (section, name), binding in bindings.items() if not section}
    readers = {macro: binding for binding in bindings.values() for macro in macros_in(binding)}
    for macro, binding in readers.items():
        if macro not in macros:
            near = difflib.get_close_matches(macro, macros, n=1)
            hint = f"did you mean %{near[0]}?" if near else f"set {macro} = …"
            raise UserError(f"{binding.place}: no macro {macro} is set: {hint}")
    for macro in macros.keys() - readers.keys():
        _check_unread(macros[macro], readers, parameters)


def macros_in(binding: Binding) -> list[str]:
    """The macros that the value reads."""
    return [repr(reference)[1:] for reference in gin.config.iterate_references(binding.value)]


def _check_parameter(binding: Binding, parameters: Parameters):
    section, name, place = binding.section, binding.name, binding.place
    if section not in parameters:
        near = difflib.get_close_matches(section, parameters, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(parameters)}"
        raise UserError(f"{place}: nothing is called '{section}': {hint}")
    if name not in parameters[section]:
        same = _same_name(name, parameters)
        near = difflib.get_close_matches(name, parameters[section], n=1, cutoff=0.5)
        if same or near:
            hint = f"did you mean {same or f'{section}.{near[0]}'}?"
        else:
            hint = f"there are {', '.join(parameters[section])}"
        raise UserError(f"{place}: {section} has no parameter '{name}': {hint}")


def _check_unread(macro: Binding, readers: Collection[str], parameters: Parameters):
    """A macro of a scale may go unread in a variant, but not one that is a slip of the pen."""
    if same := _same_name(macro.name, parameters):
        raise UserError(f"{macro.place}: '{macro.name}' is no parameter: did you mean {same}?")
    if macro.place == COMMAND_LINE:
        near = difflib.get_close_matches(macro.name, readers, n=1)
        hint = f"did you mean {near[0]}?" if near else "write section.parameter = value"
        raise UserError(f"{macro.place}: nothing reads the macro {macro.name}: {hint}")


def _same_name(name: str, parameters: Parameters) -> str | None:
    """The first section's parameter of this name."""
    targets = (f"{section}.{name}" for section in parameters if name in parameters[section])
    return next(targets, None)
