"""What a trained folder's weights take is known before they are loaded, so that it passes the gate like any other."""

import json
import shutil
import subprocess
import sys
import threading

import pytest
from stand_in_hub import StandInHub
from training import run, write_pairs

from clipdemo import load_encoder
from clipdemo.errors import CheckpointError, CorruptCheckpointError, NotEnoughMemoryError
from clipdemo.memory import Memory, Room, need
from clipdemo.models.cache import EmbeddingStore
from clipdemo.models.frameworks import IMPORT_LOCK
from clipdemo.models.governor import Governor
from clipdemo.models.loader import Loader
from clipdemo.models.trained import folder as trained_folder
from clipdemo.models.trained import recipes
from clipdemo.models.trained.encoder import TrainedEncoder
from clipdemo.models.trained.recipes import EMBEDDED, Recipe

MB = 10**6


class Machine(Memory):
    """One with so many bytes free."""

    def __init__(self, free):
        super().__init__()
        self.free = free

    def room(self):
        return Room(self.free, 0)


class Noting:
    """A gate that lets everything pass."""

    def __init__(self):
        self.judged, self.admitted = [], []

    def judge(self, name, weights):
        self.judged.append(weights)

    def admit(self, name, weights, device):
        self.admitted.append(weights)


@pytest.fixture
def hub(tiny_towers, monkeypatch, tmp_path):
    with StandInHub({"tiny/resnet": tiny_towers[0], "tiny/bert": tiny_towers[1]}) as server:
        for name, value in server.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield server


@pytest.fixture
def trained(hub, tiny_towers, tmp_path):
    """A folder on towers from the hub, one of which learned and lies in it."""
    table, place = write_pairs(tmp_path / "pairs"), tmp_path / "model"
    run(table, place, image_tower="tiny/resnet", text_tower="tiny/bert", unfreeze="text", epochs=1)
    return place


@pytest.fixture(scope="module")
def saved(tiny_towers, tmp_path_factory):
    """A folder that holds both towers."""
    folder = tmp_path_factory.mktemp("saved")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        image, text = map(str, tiny_towers)
        run(write_pairs(folder / "pairs"), folder / "model", image_tower=image, text_tower=text, epochs=1)
    return folder / "model"


def bytes_told(folder):
    return recipes.weight_bytes(folder, recipes.read_recipe(folder))


def bytes_loaded(folder):
    return sum(weight.nbytes for weight in trained_folder.load(folder).state_dict().values())


def test_towers_in_the_folder_count(saved):
    assert bytes_told(saved) == bytes_loaded(saved)
    assert bytes_told(saved) > 2 * (saved / "model.safetensors").stat().st_size


def test_towers_from_the_hub_and_towers_that_learned_count(trained):
    assert bytes_told(trained) == bytes_loaded(trained)


def test_embedded_towers_count(tmp_path):
    image, image_from, text, text_from = trained_folder.open_towers(EMBEDDED, EMBEDDED)
    recipe = Recipe(image_from, text_from, "linear", 384, True, 0.1)
    trained_folder.save(tmp_path / "m", trained_folder.DualEncoder(recipe, image, text))
    assert bytes_told(tmp_path / "m") == pytest.approx(bytes_loaded(tmp_path / "m"), rel=0.01)


def test_the_gate_is_told_of_all_the_weights(saved):
    gate = Noting()
    load_encoder(saved, device="cpu", gate=gate)
    assert gate.judged == gate.admitted == [bytes_told(saved)]


def test_a_loader_holds_a_trained_folder_and_releases_it(saved, colour_items):
    name = str(saved)
    governor = Governor(Machine(10**10))
    loader = Loader(EmbeddingStore(MB), load_encoder, governor)
    loader.start(name)
    assert loader.wait(name).state == "ready"
    assert governor.held[name] >= bytes_told(saved) // 2
    encoder = loader.encoder(name)
    rows = encoder.encode_images(colour_items)
    encoder.release()
    assert (encoder.encode_images(colour_items) == rows).all()  # what it encoded can still be had
    assert encoder.released


def test_it_loads_while_no_other_checkpoint_does(saved):
    loaded = []
    thread = threading.Thread(target=lambda: loaded.append(TrainedEncoder(saved)))
    with IMPORT_LOCK:
        thread.start()
        thread.join(1)
        assert not loaded
    thread.join()
    assert loaded


def test_one_that_does_not_fit_is_refused_before_torch_is_imported(saved):
    code = (
        "import sys\n"
        "from clipdemo import load_encoder\n"
        "from clipdemo.errors import NotEnoughMemoryError\n"
        "class Full:\n"
        "    def judge(self, name, weights): raise NotEnoughMemoryError(f'{weights} bytes')\n"
        f"try: load_encoder({str(saved)!r}, gate=Full())\n"
        "except NotEnoughMemoryError as error: print(error, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{bytes_told(saved)} bytes False\n"


def test_a_refusal_names_the_folder_and_both_figures(saved):
    governor = Governor(Machine(need(bytes_told(saved)) - 1))
    governor.used()
    with pytest.raises(NotEnoughMemoryError, match=r"model needs about 0\.1 GB; try the embedded model"):
        load_encoder(str(saved), device="cpu", gate=governor)


def test_a_tower_that_is_not_here_is_judged_before_it_is_fetched(trained, hub, tmp_path):
    shutil.rmtree(tmp_path / "home")
    fetched, seen = hub.count("model.safetensors"), []
    with pytest.raises(NotEnoughMemoryError):
        load_encoder(str(trained), device="cpu", gate=Governor(Machine(0)), on_progress=seen.append)
    assert hub.count("model.safetensors") == fetched
    assert not seen
    load_encoder(str(trained), device="cpu", gate=Noting(), on_progress=seen.append)
    assert hub.count("model.safetensors") == fetched + 1
    assert seen[-1].done == seen[-1].total


def test_a_tower_that_cannot_be_had_ends_in_a_sentence(trained, monkeypatch, tmp_path):
    shutil.rmtree(tmp_path / "home")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="tiny/resnet"):
        load_encoder(str(trained), device="cpu")


def test_a_hostile_folder_is_refused_before_anything_is_weighed(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "m")
    config = json.loads((saved / "config.json").read_text())
    config["image_tower"] |= {"origin": "hub", "name": "../../etc"}
    (tmp_path / "m/config.json").write_text(json.dumps(config))
    gate = Noting()
    with pytest.raises(CheckpointError, match="a name looks like owner/name"):
        load_encoder(str(tmp_path / "m"), gate=gate)
    (tmp_path / "m/config.json").write_text(json.dumps(config | {"dim": 10**9}))
    with pytest.raises(CorruptCheckpointError, match="cannot be used"):
        load_encoder(str(tmp_path / "m"), gate=gate)
    shutil.copy(saved / "config.json", tmp_path / "m")
    (tmp_path / "m/model.safetensors").unlink()
    (tmp_path / "m/model.safetensors").symlink_to("nowhere")
    with pytest.raises(CorruptCheckpointError, match="the files of m cannot be read"):
        load_encoder(str(tmp_path / "m"), gate=gate)
    assert not gate.judged
