"""Categories of a COCO file: which are persons, or the persons' names."""

from collections.abc import Mapping
from typing import Any

from diffps.datasets.coco_files import CocoFile, coco_key, objects
from diffps.datasets.files import summarise
from diffps.errors import DatasetError

CATEGORY_NAME = "category.name"  # an identity that stands in the categories
PERSONS = {"person", "persons", "people", "pedestrian", "pedestrians", "human", "humans"}


def categories_of(file: CocoFile) -> dict[str, str]:
    """Names of categories by id."""
    names: dict[str, str] = {}
    for row, category in enumerate(objects(file.categories, "category", file.path, "coco")):
        try:
            key = coco_key(category.get("id"), "id")
            if not isinstance(category.get("name"), str):
                raise ValueError(f"name {category.get('name')!r}: expected text")
            if key in names and names[key] != category["name"]:
                raise ValueError(f"{names[key]} and {category['name']} both have the id {key}")
            names[key] = category["name"]
        except ValueError as error:
            raise DatasetError(f"coco: {file.path}: category {row}: {error}") from None
    return names


def person_categories(file: CocoFile, categories: Mapping[str, str], identity: str) -> set[str] | None:
    """Ids of the categories that are persons; None where the file has no categories or they are the persons' names.

    Raises DatasetError where annotations are of categories of which none is a person.
    """
    if not categories or identity == CATEGORY_NAME:
        return None
    above = {coco_key(c["id"], "id"): str(c.get("supercategory", "")) for c in file.categories}
    found = {key for key, name in categories.items() if name.strip().casefold() in PERSONS}
    found = found or {key for key, name in above.items() if name.strip().casefold() in PERSONS}
    annotations = objects(file.annotations, "annotation", file.path, "coco")
    if not found and any(annotation.get("category_id") is not None for annotation in annotations):
        raise DatasetError(
            f"coco: {file.path}: none of the categories {summarise(categories.values())} is a person; name one person, "
            "or set index.identity=category.name if they are the persons' names"
        )
    return found


def category_of(annotation: Mapping[str, Any], categories: Mapping[str, str], persons: set[str] | None) -> str | None:
    """Id of an annotation's category, None where it has none. Raises ValueError for one that is not listed."""
    if annotation.get("category_id") is None:
        return None
    category = coco_key(annotation["category_id"], "category_id")
    if persons is not None and category not in categories:
        raise ValueError(f"category_id {category} is not among the categories")
    return category
