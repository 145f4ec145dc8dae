"""Exports of CVAT, for the tests of its reader and of prepare."""

from pathlib import Path

from raw_folders import write_image

HEAD = '<?xml version="1.0" encoding="utf-8"?>\n'

CVAT_META = """
  <version>1.1</version>
  <meta><{kind}><id>7</id><name>parking</name><size>2</size><mode>{mode}</mode><labels>
    <label><name>car</name><color>#fa3253</color><type>any</type><attributes></attributes></label>
    <label><name>person</name><color>#33ddff</color><type>skeleton</type><attributes></attributes>
      <svg>&lt;line x1="38" y1="12" data-type="edge" data-node-from="1" data-node-to="3"&gt;&lt;/line&gt;
&lt;circle r="1.5" data-type="element node" data-element-id="1" data-node-id="1" data-label-name="head"&gt;
&lt;/circle&gt;&lt;circle data-type="element node" data-element-id="2" data-node-id="2" data-label-name="left hand"&gt;
&lt;/circle&gt;&lt;circle data-type="element node" data-element-id="3" data-node-id="3" data-label-name="right hand"&gt;
&lt;/circle&gt;</svg></label>
    <label><name>head</name><color>#d12345</color><type>points</type><attributes></attributes><parent>person</parent></label>
    <label><name>left hand</name><type>points</type><attributes></attributes><parent>person</parent></label>
    <label><name>right hand</name><type>points</type><attributes></attributes><parent>person</parent></label>
  </labels>{more}</{kind}><dumped>2024-05-01 10:00:00.000000+00:00</dumped></meta>
"""
CVAT_IMAGES = """
  <image id="0" name="lot/a.jpg" width="64" height="48">
    <box label="car" source="manual" occluded="0" xtl="10.00" ytl="5.50" xbr="30.25" ybr="20.00" z_order="0">
      <attribute name="colour">red</attribute></box>
    <polygon label="car" source="manual" occluded="1" points="40.00,10.00;60.00,10.00;60.00,30.00" z_order="1"/>
    <mask label="car" source="manual" occluded="0" rle="1, 2, 1, 4" left="20" top="30" width="4" height="2" z_order="0">
    </mask>
    <skeleton label="person" source="manual" z_order="0">
      <points label="right hand" source="manual" outside="0" occluded="1" points="50.00,40.50"></points>
      <points label="head" source="manual" outside="0" occluded="0" points="38.50,12.25"></points>
      <points label="left hand" source="manual" outside="1" occluded="0" points="0.00,0.00"></points>
    </skeleton>
    <polyline label="car" source="manual" occluded="0" points="1.00,1.00;2.00,2.00" z_order="0"></polyline>
    <tag label="car" source="manual"></tag>
  </image>
  <image id="1" name="b.jpg" width="64" height="48">
    <ellipse label="car" source="manual" occluded="0" cx="32.00" cy="24.00" rx="10.00" ry="5.00" rotation="90.00"/>
  </image>
"""


def write_cvat(root: Path, *, images: str = CVAT_IMAGES) -> None:
    """annotations.xml as an export of a task for images, and images/ of 48 x 64."""
    for seed, name in enumerate(("lot/a.jpg", "b.jpg")):
        write_image(root / "images" / name, seed=seed)
    meta = CVAT_META.format(kind="task", mode="annotation", more="")
    (root / "annotations.xml").write_text(f"{HEAD}<annotations>{meta}{images}</annotations>\n")


CVAT_TRACKS = """
  <track id="0" label="car" source="manual">
    <box frame="0" keyframe="1" outside="0" occluded="0" xtl="0.00" ytl="0.00" xbr="10.00" ybr="10.00" z_order="0"/>
    <box frame="2" keyframe="1" outside="0" occluded="1" xtl="20.00" ytl="10.00" xbr="40.00" ybr="20.00" z_order="0"/>
    <box frame="3" keyframe="1" outside="1" occluded="1" xtl="20.00" ytl="10.00" xbr="40.00" ybr="20.00" z_order="0"/>
  </track>
  <track id="1" label="person" source="manual">
    <skeleton frame="1" keyframe="1" z_order="0">
      <points label="head" keyframe="1" outside="0" occluded="0" points="10.00,20.00"></points>
      <points label="left hand" keyframe="1" outside="0" occluded="0" points="20.00,30.00"></points>
      <points label="right hand" keyframe="1" outside="1" occluded="0" points="0.00,0.00"></points>
    </skeleton>
  </track>
"""


def write_cvat_video(root: Path, *, tracks: str = CVAT_TRACKS, frames: int = 5) -> None:
    """annotations.xml as an export of a task for video, and images/frame_000000.png, ... of 48 x 64."""
    for frame in range(frames):
        write_image(root / "images" / f"frame_{frame:06d}.png", seed=frame)
    size = "<original_size><width>64</width><height>48</height></original_size>"
    meta = CVAT_META.format(kind="job", mode="interpolation", more=size)
    (root / "annotations.xml").write_text(f"{HEAD}<annotations>{meta}{tracks}</annotations>\n")
