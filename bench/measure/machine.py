# SPDX-License-Identifier: GPL-2.0-or-later
"""Which kind of machine a figure is of. Figures of two kinds are not compared."""


def machine_key(cpu):
    """Of a run's host.cpu: the model's name with what the CPU says of its generation. A virtual machine may call each
    of them "AMD EPYC"; family and model number still differ. Of a run that has not kept them it is the name alone."""
    name = cpu.get("model") or "a CPU without a name"
    parts = [f"{what} {cpu[key]}" for key, what in (("family", "family"), ("model_number", "model"),
                                                    ("stepping", "stepping")) if cpu.get(key)]
    return f"{name} ({', '.join(parts)})" if parts else name
