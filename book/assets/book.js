// docutils calls a bibliography a list, but its entries no list items: a screen reader would announce an empty list.
for (const list of document.querySelectorAll(".citation-list[role=list]")) list.removeAttribute("role");
