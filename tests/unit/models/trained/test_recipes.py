"""The size of a trained folder's weights is known before they load, so it passes the memory gate."""

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
    """A machine with ``free`` bytes of free memory."""

    def __init__(self, free):
        super().__init__()
        self.free = free

    def room(self):
        return Room(self.free, 0)


class Noting:
    """A gate that admits everything."""

    def __init__(self):
        self.judged, self.admitted = [], []

    def refuse_if_hopeless(self, name, weight_bytes):
        self.judged.append(weight_bytes)

    def admit(self, name, weight_bytes, device):
        self.admitted.append(weight_bytes)


@pytest.fixture
def hub(tiny_towers, monkeypatch, tmp_path):
    with StandInHub({"tiny/resnet": tiny_towers[0], "tiny/bert": tiny_towers[1]}) as server:
        for name, value in server.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield server


@pytest.fixture
def trained(hub, tiny_towers, tmp_path):
    """A folder with towers from the hub, one of which was trained and saved in it."""
    table, place = write_pairs(tmp_path / "pairs"), tmp_path / "model"
    run(table, place, image_tower="tiny/resnet", text_tower="tiny/bert", unfreeze="text", epochs=1)
    return place


@pytest.fixture(scope="module")
def saved(tiny_towers, tmp_path_factory):
    """A folder with both towers saved in it."""
    folder = tmp_path_factory.mktemp("saved")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        image, text = map(str, tiny_towers)
        run(write_pairs(folder / "pairs"), folder / "model", image_tower=image, text_tower=text, epochs=1)
    return folder / "model"


def declared_bytes(folder):
    return recipes.weight_bytes(folder, recipes.read_recipe(folder))


def loaded_bytes_of(folder):
    return sum(weight.nbytes for weight in trained_folder.load(folder).state_dict().values())


def test_towers_in_the_folder_count(saved):
    assert declared_bytes(saved) == loaded_bytes_of(saved)
    assert declared_bytes(saved) > 2 * (saved / "model.safetensors").stat().st_size


def test_towers_from_the_hub_and_towers_that_learned_count(trained):
    assert declared_bytes(trained) == loaded_bytes_of(trained)


def test_embedded_towers_count(tmp_path):
    image, image_from, text, text_from = trained_folder.open_towers(EMBEDDED, EMBEDDED)
    recipe = Recipe(image_from, text_from, "linear", 384, True, 0.1)
    trained_folder.save(tmp_path / "m", trained_folder.DualEncoder(recipe, image, text))
    assert declared_bytes(tmp_path / "m") == pytest.approx(loaded_bytes_of(tmp_path / "m"), rel=0.01)


def test_the_gate_gets_the_size_of_all_weights(saved):
    gate = Noting()
    load_encoder(saved, device="cpu", gate=gate)
    assert gate.judged == gate.admitted == [declared_bytes(saved)]


def test_a_loader_keeps_a_trained_folder_and_releases_it(saved, colour_items):
    name = str(saved)
    governor = Governor(Machine(10**10))
    loader = Loader(EmbeddingStore(MB), load_encoder, governor)
    loader.start(name)
    assert loader.wait(name).state == "ready"
    assert governor.loaded_bytes[name] >= declared_bytes(saved) // 2
    encoder = loader.encoder(name)
    rows = encoder.encode_images(colour_items)
    encoder.release()
    assert (encoder.encode_images(colour_items) == rows).all()  # cached embeddings stay available
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


def test_a_folder_that_does_not_fit_is_refused_before_torch_is_imported(saved):
    code = (
        "import sys\n"
        "from clipdemo import load_encoder\n"
        "from clipdemo.errors import NotEnoughMemoryError\n"
        "class Full:\n"
        "    def refuse_if_hopeless(self, name, weight_bytes):\n"
        "        raise NotEnoughMemoryError(f'{weight_bytes} bytes')\n"
        f"try: load_encoder({str(saved)!r}, gate=Full())\n"
        "except NotEnoughMemoryError as error: print(error, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{declared_bytes(saved)} bytes False\n"


def test_a_refusal_names_the_folder_and_both_figures(saved):
    governor = Governor(Machine(need(declared_bytes(saved)) - 1))
    governor.note_first_use()
    with pytest.raises(
        NotEnoughMemoryError,
        match=r"model needs about 100 MB of memory, .* 100 MB free of 100 MB; try the embedded model",
    ):
        load_encoder(str(saved), device="cpu", gate=governor)


def test_the_size_of_a_missing_tower_is_checked_before_its_download(trained, hub, tmp_path):
    shutil.rmtree(tmp_path / "home")
    fetched, seen = hub.count("model.safetensors"), []
    with pytest.raises(NotEnoughMemoryError):
        load_encoder(str(trained), device="cpu", gate=Governor(Machine(0)), on_progress=seen.append)
    assert hub.count("model.safetensors") == fetched
    assert not seen
    load_encoder(str(trained), device="cpu", gate=Noting(), on_progress=seen.append)
    assert hub.count("model.safetensors") == fetched + 1
    assert seen[-1].done == seen[-1].total


def test_an_unavailable_tower_gives_a_sentence(trained, monkeypatch, tmp_path):
    shutil.rmtree(tmp_path / "home")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="tiny/resnet"):
        load_encoder(str(trained), device="cpu")


def test_a_hostile_folder_is_refused_before_its_size_is_read(saved, tmp_path):
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
