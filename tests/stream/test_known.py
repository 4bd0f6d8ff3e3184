import json

from unblink.stream.frames import Frame, FrameType, Lines
from unblink.stream.known import Known, with_kind
from unblink.stream.objects import Item, decode_page


def frame(kind: str, name: str, rv: str, uid: str = "") -> Frame:
    made = {"kind": "Pod", "metadata": {"name": name, "uid": uid or name, "resourceVersion": rv}}
    [one] = Lines().feed(json.dumps({"type": kind, "object": made}).encode() + b"\n")
    return one


def item(name: str, rv: str, uid: str = "") -> Item:
    one = frame("ADDED", name, rv, uid)
    return Item(one.metadata, one.object_json())


def told(frames: list[Frame]) -> list[tuple[str, str, str]]:
    return [(one.type, one.metadata.name, one.metadata.resource_version) for one in frames]


def test_the_first_list_adds_all_there_is() -> None:
    assert told(Known().relist([item("a", "1"), item("b", "2")])) == [("ADDED", "a", "1"), ("ADDED", "b", "2")]


def test_a_relist_is_told_as_what_changed() -> None:
    known = Known()
    known.relist([item("gone", "1"), item("same", "2"), item("changed", "3"), item("again", "4", uid="old")])
    known.note(frame("MODIFIED", "gone", "5"))
    known.note(frame("ADDED", "added-then-deleted", "6"))
    known.note(frame("DELETED", "added-then-deleted", "7"))
    events = known.relist([item("same", "2"), item("changed", "8"), item("again", "9", uid="new"), item("new", "10")])
    assert told(events) == [
        ("DELETED", "gone", "5"),
        ("MODIFIED", "changed", "8"),
        ("DELETED", "again", "4"),
        ("ADDED", "again", "9"),
        ("ADDED", "new", "10"),
    ]
    assert len(known) == 4


def test_what_it_tells_can_be_decoded_as_an_event() -> None:
    known = Known()
    known.relist([item("a", "1")])
    [deleted] = known.relist([])
    assert json.loads(deleted.raw)["type"] == "DELETED"
    assert json.loads(deleted.object_json())["metadata"]["name"] == "a"
    assert Lines().feed(deleted.raw + b"\n")[0].type is FrameType.DELETED


def test_a_bookmark_says_nothing_of_objects() -> None:
    known = Known()
    known.note(frame("BOOKMARK", "", "5"))
    assert len(known) == 0


def test_items_of_a_list_say_their_kind_as_objects_of_a_watch_do() -> None:
    items = [{"metadata": {"name": "a"}}, {"kind": "Own", "apiVersion": "x/v1", "metadata": {"name": "b"}}]
    listed = {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}
    body = json.dumps(listed).encode()
    first, second = (json.loads(one.raw) for one in with_kind(body, decode_page(body).items))
    assert (first["kind"], first["apiVersion"], first["metadata"]) == ("Pod", "v1", {"name": "a"})
    assert second["kind"] == "Own"


def test_a_list_without_a_kind_leaves_its_items_as_they_are() -> None:
    body = json.dumps({"metadata": {"resourceVersion": "1"}, "items": [{"metadata": {"name": "a"}}]}).encode()
    [one] = with_kind(body, decode_page(body).items)
    assert json.loads(one.raw) == {"metadata": {"name": "a"}}
