"""Says what Ansible makes of inventories: the other side of src/inventory/tests/conformance.rs.

Reads {"cases": [{"file": ..., "patterns": [...]}]} from stdin and writes one answer a case to stdout, with the classes
that `ansible-inventory --list` and `ansible --limit P --list-hosts` use.
"""

import json
import sys

from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.utils.display import Display
from ansible.vars.manager import VariableManager

try:  # ansible-core 2.19 and newer
    from ansible.constants import INTERNAL_STATIC_VARS as INTERNAL_VARS
    from ansible.parsing.vault import EncryptedString as Encrypted
except ImportError:
    from ansible.cli.inventory import INTERNAL_VARS
    from ansible.parsing.yaml.objects import AnsibleVaultEncryptedUnicode as Encrypted

Display.warning = lambda *args, **kwargs: None


def plain(value):
    if isinstance(value, Encrypted):
        return "(vault)"
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, int) and value.bit_length() > 63:
        return str(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return str(value)


def order_is_defined(group):
    """Ansible walks groups level by level, each level in the order of a Python set."""
    level, top = [group], True
    while level:
        if not top and sum(bool(one.child_groups) for one in level) > 1:
            return False
        level, top = [child for one in level for child in one.child_groups], False
    return True


def answer(case):
    loader = DataLoader()
    inventory = InventoryManager(loader=loader, sources=[case["file"]])
    if "all" not in inventory.groups or not inventory.hosts:
        return {"error": "no hosts"}
    manager = VariableManager(loader=loader, inventory=inventory)
    hosts = {}
    for host in inventory.get_hosts():
        values = manager.get_vars(host=host, include_hostvars=False, stage="all")
        groups = values["group_names"]
        values = {name: plain(value) for name, value in values.items() if name not in INTERNAL_VARS}
        hosts[host.name] = {"vars": values, "groups": groups}
    selected = {}
    for pattern in case["patterns"]:
        try:
            inventory.subset(pattern)
            selected[pattern] = [host.name for host in inventory.get_hosts("all")]
        except Exception as error:
            selected[pattern] = str(error)
        inventory.subset(None)
    return {
        "order": list(hosts),
        "order_is_defined": order_is_defined(inventory.groups["all"]),
        "hosts": hosts,
        "selected": selected,
    }


json.dump([answer(case) for case in json.load(sys.stdin)["cases"]], sys.stdout)
