from pathlib import Path

import pytest

from unblink.lab.apiserver.config import ApiserverConfig, ConfigError, StoreConfig, load


def test_store_defaults(tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    path.write_text('{"address": "127.0.0.1"}')
    assert load(path, StoreConfig) == StoreConfig(address="127.0.0.1", port=2379, history=10_000)


def test_custom_resources(tmp_path: Path) -> None:
    path = tmp_path / "apiserver.json"
    path.write_text(
        '{"name": "a", "address": "127.0.0.1", "ca": "ca.pem", "certificate": "c.pem", "private_key": "k.pem",'
        ' "store_address": "127.0.0.2",'
        ' "custom_resources": [{"group": "lab.io", "version": "v1", "plural": "widgets", "kind": "Widget"}]}'
    )
    config = load(path, ApiserverConfig)
    assert config.port == 6443
    assert config.bookmark_period_ms == 60_000
    assert config.custom_resources[0].plural == "widgets"
    assert config.custom_resources[0].namespaced


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "truncated"),
        ("{}", "missing required field `address`"),
        ('{"address": "x", "adress": "y"}', "unknown field `adress`"),
        ('{"address": "x", "port": "y"}', r"Expected `int`, got `str` - at `\$.port`"),
    ],
)
def test_a_bad_file_says_what_and_where(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "store.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"store.json: .*{says}"):
        load(path, StoreConfig)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "none.json", StoreConfig)
