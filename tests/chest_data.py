"""Miniature chest-film data sets in the published layouts: all images and texts are made here.

    data = write_chest_data(tmp_path, patients=6, seed=0)
    data.sources    # one dict per data set, ready for `ChestSourceConfig(**dict)` or for YAML
    data.root       # holds a folder per data set: mimic_jpg, mimic_reports, imagenome, ms_cxr,
                    # chexpert, chexpert_plus, vindr, padchest
    data.lesions    # image id of its source -> [(label, (x1, y1, x2, y2)), ...] that were drawn

Films are `SIZE` (width, height); every lesion is a bright ellipse inside its box and its label
decides where it lies (`PLACES`), so that a small model can learn both. Of six patients, four
train, one validates, one is for testing, as far as the published set has such splits.

Awkward rows, as in the published sets; none of them is an error: lateral films, blank and -1
labels, rows without any label, reports with impression only, with a view as header, without any
header, with a typo in a header, with "None" in the text, with an addendum, and one missing; a
missing scene graph; an id in capital letters (MS-CXR); a box that sticks out a little; rad_id and
rad_ID, several readers, NaN boxes for "No finding"; sex missing; Spanish reports, findings without
boxes.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from chest_files import write_csv, write_dicom
from PIL import Image, ImageDraw

SIZE = (96, 80)
# Label -> center and half size of its lesions, as shares of the film's width and height.
PLACES = {
    "Atelectasis": (0.30, 0.60, 0.12, 0.05),
    "Cardiomegaly": (0.55, 0.65, 0.16, 0.12),
    "Consolidation": (0.72, 0.30, 0.08, 0.10),
    "Edema": (0.30, 0.35, 0.10, 0.12),
    "Pleural Effusion": (0.22, 0.85, 0.12, 0.08),
    "Pneumothorax": (0.78, 0.15, 0.10, 0.08),
}
WORDS = {
    "Atelectasis": "There is a band of atelectasis in the right mid lung.",
    "Cardiomegaly": "The heart is enlarged.",
    "Consolidation": "Dense consolidation is seen in the left upper lung.",
    "Edema": "There is oedema of the right upper lung.",
    "Pleural Effusion": "A small right pleural effusion is present.",
    "Pneumothorax": "There is a left apical pneumothorax.",
}
SPANISH = {name: f"hallazgo {number}" for number, name in enumerate(PLACES)}
CLEAR = "The lungs are clear and the heart is of normal size."
CHEXPERT_LABELS = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion"),
    *("Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion"),
    *("Pleural Other", "Fracture", "Support Devices"),
)
VINDR_CLASS = {
    "Pleural Effusion": "Pleural effusion",
    **{name: name for name in PLACES if name != "Pleural Effusion"},
}
ORGANS = {
    "right lung": (0.10, 0.10, 0.45, 0.90),
    "left lung": (0.55, 0.10, 0.92, 0.90),
    "cardiac silhouette": (0.38, 0.45, 0.72, 0.80),
    "right costophrenic angle": (-0.01, 0.80, 0.20, 0.98),  # sticks out a little
}
Box = tuple[int, int, int, int]
Lesions = list[tuple[str, Box]]


@dataclass
class ChestData:
    """What was written; see the module."""

    root: Path
    sources: list[dict[str, object]] = field(default_factory=list)
    lesions: dict[str, Lesions] = field(default_factory=dict)


def write_chest_data(root: Path, patients: int = 6, seed: int = 0) -> ChestData:
    """Write all data sets below `root`, each with `patients` patients, 6 at least."""
    assert patients >= 6, "fewer have no film for testing"
    data = ChestData(root)
    _Maker(data, patients, seed).write()
    folders = {
        "mimic_cxr": ("mimic_jpg", None, "mimic_reports"),
        "chest_imagenome": ("imagenome", "mimic_jpg", None),
        "ms_cxr": ("ms_cxr", "mimic_jpg", "mimic_reports"),
        "chexpert": ("chexpert", None, None),
        "chexpert_plus": ("chexpert_plus", "chexpert", None),
        "vindr_cxr": ("vindr", None, None),
        "padchest_gr": ("padchest", None, None),
    }
    for kind, (own, parent, reports) in folders.items():
        source: dict[str, object] = {"name": kind, "kind": kind, "root": str(root / own)}
        source |= {"parent": str(root / parent)} if parent else {}
        source |= {"reports": str(root / reports)} if reports else {}
        data.sources.append(source)
    return data


class _Maker:
    def __init__(self, data: ChestData, patients: int, seed: int) -> None:
        self.data, self.patients = data, patients
        self.rng = np.random.default_rng(seed)
        self.reports = 0

    def write(self) -> None:
        self.mimic()
        self.chexpert()
        self.vindr()
        self.padchest()

    def split(self, patient: int) -> str:
        """Return train, train, train, train, validate, test, train, ..."""
        return ("train", "train", "train", "train", "validate", "test")[patient % 6]

    def film(self, name: str, number: int) -> np.ndarray:
        """Return the pixels of a film with 0 to 2 lesions and remember them."""
        width, height = SIZE
        labels = [list(PLACES)[(number + 3 * i) % len(PLACES)] for i in range(number % 3)]
        noise = self.rng.integers(0, 20, (height, width), dtype=np.uint8)
        picture = Image.fromarray(noise + np.uint8(60))
        draw = ImageDraw.Draw(picture)
        lesions: Lesions = []
        for label in labels:
            x, y, a, b = PLACES[label]
            shift = self.rng.integers(-3, 4, 2)
            edges = [(x - a) * width, (y - b) * height, (x + a) * width, (y + b) * height]
            box = [round(edge + shift[i % 2]) for i, edge in enumerate(edges)]
            x1, y1, x2, y2 = (int(min(max(v, 0), SIZE[i % 2])) for i, v in enumerate(box))
            draw.ellipse((x1, y1, x2 - 1, y2 - 1), fill=int(self.rng.integers(210, 250)))
            lesions.append((label, (x1, y1, x2, y2)))
        self.data.lesions[name] = lesions
        return np.asarray(picture)

    def save(self, path: Path, pixels: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=95)

    # MIMIC-CXR-JPG, its reports, Chest ImaGenome and MS-CXR

    def mimic(self) -> None:
        root = self.data.root
        films, studies, phrases = [], [], []
        graphs: dict[str, list[dict[str, object]]] = {"train": [], "valid": [], "test": []}
        for patient in range(self.patients):
            subject = 10000032 + 17 * patient
            for visit in range(1 + (patient % 3 == 0)):
                number = 2 * patient + visit
                study = 50414267 + number
                first = f"{patient:08x}-{number:08x}-aaaaaaaa-bbbbbbbb-cccccccc"
                views = [(first, "AP" if visit else "PA")]
                if not visit:
                    views.append((first.replace("aaaaaaaa", "dddddddd"), "LATERAL"))
                for dicom, view in views:
                    films.append((dicom, subject, study, view, self.split(patient)))
                    path = f"files/p{str(subject)[:2]}/p{subject}/s{study}/{dicom}.jpg"
                    self.save(root / "mimic_jpg" / path, self.film(dicom, number))
                lesions = self.data.lesions[first]
                studies.append((subject, study, number, [label for label, _ in lesions]))
                self.report(subject, study, number, lesions)
                self.phrases(first, subject, study, phrases)
                split = {"validate": "valid"}.get(self.split(patient), self.split(patient))
                row = {"dicom_id": first, "subject_id": subject, "study_id": study}
                graphs[split].append(row | {"ViewPosition": views[0][1]})
                if number != 1:
                    self.scene_graph(first, number)
        self.mimic_tables(films, studies)
        for split, rows in graphs.items():
            path = root / f"imagenome/silver_dataset/splits/{split}.csv"
            write_csv(path, rows, ("dicom_id", "subject_id", "study_id", "ViewPosition"))
        phrases[0]["dicom_id"] = str(phrases[0]["dicom_id"]).upper()
        write_csv(root / "ms_cxr/MS_CXR_Local_Alignment_v1.0.0.csv", phrases)

    def mimic_tables(self, films: list, studies: list) -> None:
        folder = self.data.root / "mimic_jpg"
        width, height = SIZE
        metadata = [
            {
                "dicom_id": dicom,
                "subject_id": subject,
                "study_id": study,
                "PerformedProcedureStepDescription": "CHEST (PA AND LAT)",
                "ViewPosition": view,
                "Rows": height,
                "Columns": width,
                "StudyDate": 21800506,
                "StudyTime": "213014.531",
                "ProcedureCodeSequence_CodeMeaning": "CHEST (PA AND LAT)",
                "ViewCodeSequence_CodeMeaning": "",
                "PatientOrientationCodeSequence_CodeMeaning": "Erect",
            }
            for dicom, subject, study, view, _ in films
        ]
        split = [
            {"dicom_id": dicom, "study_id": study, "subject_id": subject, "split": split}
            for dicom, subject, study, _, split in films
        ]
        chexpert = [
            {"subject_id": subject, "study_id": study} | self.row(number, labels, "")
            for subject, study, number, labels in studies
        ]
        write_csv(folder / "mimic-cxr-2.0.0-metadata.csv.gz", metadata)
        write_csv(folder / "mimic-cxr-2.0.0-split.csv", split[::-1])  # order means nothing
        write_csv(folder / "mimic-cxr-2.0.0-chexpert.csv.gz", sorted(chexpert, key=str))

    def row(self, number: int, labels: list[str], blank: str) -> dict[str, object]:
        """Return a labeler's row: every fifth says nothing, every fourth is uncertain of one."""
        row: dict[str, object] = dict.fromkeys(CHEXPERT_LABELS, blank)
        if number % 5 == 4:
            return row
        row |= dict.fromkeys(labels, "1.0")
        row["Pneumonia"] = "-1.0" if number % 4 == 3 else blank
        row["Pneumothorax"] = "1.0" if "Pneumothorax" in labels else "0.0"
        if not labels and number % 4 != 3:
            row["No Finding"] = "1.0"
        row["Support Devices"] = "1.0" if number % 7 == 0 else blank
        return row

    def report(self, subject: int, study: int, number: int, lesions: Lesions) -> None:
        if number == 8:
            return  # a missing report
        said = " ".join(WORDS[label] for label, _ in lesions) or CLEAR
        head = "                                 FINAL REPORT\n"
        broken = said.replace(" the ", "\n the ").replace(" is ", " is\n ")
        kinds = [
            f" EXAMINATION:  CHEST (PA AND LAT)\n\n INDICATION:  ___ year old, cough.\n\n"
            f" COMPARISON:  None.\n\n FINDINGS: \n\n {broken}\n\n IMPRESSION: \n\n {said}\n",
            f" INDICATION:  Pain.\n\n IMPRESSION:  {broken}\n",
            f" INDICATION:  Fever.\n\n PA AND LATERAL CHEST:  {broken}\n",
            f" CLINICAL INFORMATION:  Fall.\n\n {broken}\n",
            f" REASON FOR EXAM:  Fever.\n\n FINDNGS:  {broken}\n\n IMPRESSON:  None acute.\n",
            f" FINDINGS:  {broken}\n\n IMPRESSION:  {said}\n"
            + "                                 FINAL ADDENDUM\n The date was corrected.\n",
        ]
        folder = self.data.root / f"mimic_reports/files/p{str(subject)[:2]}/p{subject}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"s{study}.txt").write_text(head + kinds[self.reports % len(kinds)])
        self.reports += 1

    def phrases(self, dicom: str, subject: int, study: int, rows: list) -> None:
        path = f"files/p{str(subject)[:2]}/p{subject}/s{study}/{dicom}.jpg"
        for label, (x1, y1, x2, y2) in self.data.lesions[dicom]:
            rows.append(
                {
                    "category_name": label,
                    "label_text": WORDS[label].rstrip("."),
                    "path": path,
                    **{"x": x1, "y": y1, "w": x2 - x1, "h": y2 - y1, "dicom_id": dicom},
                    **{"image_width": SIZE[0], "image_height": SIZE[1]},
                }
            )

    def scene_graph(self, dicom: str, number: int) -> None:
        width, height = SIZE
        objects = []
        for name, (x1, y1, x2, y2) in ORGANS.items():
            box = (x1 * width, y1 * height, x2 * width, y2 * height)
            corners = ("original_x1", "original_y1", "original_x2", "original_y2")
            one = {"object_id": f"{dicom}_{name}", "bbox_name": name, "name": name.title()}
            objects.append(one | dict(zip(corners, map(round, box), strict=True)))
        graph = {
            "image_id": dicom,
            "viewpoint": "PA",
            "gender": "F" if number % 2 else "M",
            "objects": objects,
            **{"attributes": [], "relationships": []},
        }
        folder = self.data.root / "imagenome/silver_dataset/scene_graph"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{dicom}_SceneGraph.json").write_text(json.dumps(graph))

    # CheXpert and CheXpert-Plus

    def chexpert(self) -> None:
        rows: dict[str, list[dict[str, object]]] = {"train": [], "valid": [], "test": []}
        plus, judged = [], []
        for patient in range(self.patients):
            split = {"validate": "valid"}.get(self.split(patient), self.split(patient))
            for view in ("frontal", "lateral")[: 1 + (patient % 2)]:
                number = 7 + patient
                path = f"{split}/patient{patient + 1:05d}/study1/view1_{view}.jpg"
                name = path.partition("/")[2].replace("/", "_").removesuffix(".jpg")
                self.save(self.data.root / "chexpert" / path, self.film(name, number))
                labels = [label for label, _ in self.data.lesions[name]]
                said = self.row(number, labels, "" if split == "train" else "0.0")
                if split == "test":
                    said = {key: str(value).replace("-1.0", "0.0") for key, value in said.items()}
                    rows[split].append({"Path": path} | said)
                    continue
                frontal = view == "frontal"
                about = {"Sex": "Female" if patient % 2 else "Male", "Age": 60 + patient}
                about |= {"Frontal/Lateral": view.title(), "AP/PA": "AP" if frontal else ""}
                rows[split].append({"Path": f"CheXpert-v1.0-small/{path}"} | about | said)
                plus.append(self.plus(path, split, patient, frontal, labels))
                judged.append(self.judged(path, labels))
        for split, own in rows.items():
            if own:
                write_csv(self.data.root / f"chexpert/{split}.csv", own)
        folder = self.data.root / "chexpert_plus"
        write_csv(folder / "df_chexpert_plus_240401.csv", plus)
        (folder / "chexbert_labels").mkdir()
        lines = "".join(json.dumps(one) + "\n" for one in judged[::-1])
        (folder / "chexbert_labels/report_fixed.json").write_text(lines)

    def plus(self, path: str, split: str, patient: int, frontal: bool, labels: list[str]) -> dict:
        said = " ".join(WORDS[label] for label in labels).lower() or CLEAR.lower()
        return {
            "path_to_image": path,
            "path_to_dcm": path.replace(".jpg", ".dcm"),
            "frontal_lateral": "Frontal" if frontal else "Lateral",
            "ap_pa": "AP" if frontal else "",
            "deid_patient_id": f"patient{patient + 1:05d}",
            "section_findings": said if patient % 3 else "",
            "section_impression": f"1. {said}\n2. no other abnormality.",
            "section_end_of_impression": "end of impression" if patient % 2 else "",
            "sex": "Female" if patient % 2 else "Male",
            "split": split,
        }

    def judged(self, path: str, labels: list[str]) -> dict:
        said: dict[str, object] = dict.fromkeys(CHEXPERT_LABELS)
        said |= dict.fromkeys(labels, 1.0)
        said["Pneumonia"] = -1.0
        return {"path_to_image": path} | said

    # VinDr-CXR

    def vindr(self) -> None:
        root = self.data.root / "vindr"
        train, test = [], []
        for number in range(self.patients):
            name = f"{number:032x}"
            split = "test" if self.split(number) == "test" else "train"
            sex = (None, "F", "M", "O")[number % 4]
            write_dicom(root / f"{split}/{name}.dicom", self.film(name, number), sex)
            readers = ("R8", "R9", "R10") if split == "train" else (None,)
            for reader in readers:
                drawn = self.read_by(name, reader)
                if split == "train":
                    train += [{"image_id": name, "rad_id": reader} | box for box in drawn]
                else:
                    test += [{"image_id": name} | box for box in drawn]
        write_csv(root / "annotations/annotations_train.csv", train)
        if test:
            write_csv(root / "annotations/annotations_test.csv", test)

    def read_by(self, name: str, reader: str | None) -> list[dict[str, object]]:
        """Return what a reader drew: R9 sees the first lesion only, R10 draws a bit larger."""
        corners = ("x_min", "y_min", "x_max", "y_max")
        lesions = self.data.lesions[name][: 1 if reader == "R9" else None]
        grow = 1 if reader == "R10" else 0
        rows = []
        for label, (x1, y1, x2, y2) in lesions:
            box = (x1 - grow, y1 - grow, x2 + grow, y2 + grow)
            row: dict[str, object] = {"class_name": VINDR_CLASS[label]}
            rows.append(row | dict(zip(corners, box, strict=True)))
        return rows or [{"class_name": "No finding"} | dict.fromkeys(corners, "")]

    # PadChest-GR

    def padchest(self) -> None:
        root = self.data.root / "padchest"
        master, rows, grounded = [], [], []
        for number in range(self.patients):
            name = f"{2160000 + number}_film_{number:03d}.png"
            self.save(root / "images_grounding" / name, self.film(name, number))
            split = {"validate": "validation"}.get(self.split(number), self.split(number))
            sex = ("M", "F", "")[number % 3]
            master.append({"ImageID": name, "split": split, "PatientSex_DICOM": sex})
            rows.append(
                {
                    "": number,
                    "ImageID": name,
                    "PatientID": f"{900 + number // 2}" if split == "train" else f"{number}",
                    "Projection": "PA" if number % 2 else "AP",
                    "Report": "corazon normal" if number % 3 == 0 else "hallazgo . ver",
                }
            )
            grounded.append({"ImageID": name, "findings": self.sentences(name)})
        write_csv(root / "master_table.csv", master)
        write_csv(root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", rows[::-1])
        (root / "grounded_reports_20240819.json").write_text(json.dumps(grounded))

    def sentences(self, name: str) -> list[dict[str, object]]:
        width, height = SIZE
        found = [
            {
                "sentence_en": WORDS[label],
                "sentence_es": SPANISH[label],
                "abnormal": True,
                "boxes": [[x1 / width, y1 / height, x2 / width, y2 / height]],
            }
            for label, (x1, y1, x2, y2) in self.data.lesions[name]
        ]
        normal = {"sentence_en": "The bones are normal.", "sentence_es": "huesos normales"}
        return [*found, normal | {"abnormal": False, "boxes": []}]
